# shows: the card that the host's console is on gives it up for the guest, and gets it back; another card's guest leaves the console alone
console() { cat /sys/class/vtconsole/vtcon*/bind | xargs; }

# The kernel draws the console on the card that the firmware started, whichever frame buffer is the first.
is "the card that the firmware started" "$(cat "${PCI}01:00.0/boot_vga")" 1
before=$(console)
echo "the consoles are bound: $before"
[[ $before == *1* ]] || fail "no console is bound, so nothing is tested"
define other pci="02:00.0 02:00.1" vcpus="2 3" emulator=0-1 node=0 shm=other
start other
is "with the other card's guest the consoles are bound" "$(console)" "$before"
stop other
define win
start win
is "the card" "$(driver 01:00.0)" vfio-pci
[[ $(qemu-hook status) == *"the host's console is taken"* ]] || fail "status does not say that the console is taken"
stop win
[[ $(qemu-hook status) != *"console is taken"* ]] || fail "the console is still taken"
is "the consoles are bound" "$(console)" "$before"
as_before
