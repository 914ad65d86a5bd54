# shows: the card that the host's console is on gives it up for the guest, and gets it back; another card's guest leaves the console alone
console() { cat /sys/class/vtconsole/vtcon*/bind | xargs; }
explain 'unit sys-devices-.*-(sound|drm)-card[01].*|file /dev/(snd|dri)/.*' "the numbers of the host's cards"
before=$(console)
is "the console is on 01:00.0" "$(readlink -f /sys/class/graphics/fb0 | grep -o '0000:01:00.0')" 0000:01:00.0
is "the consoles are bound" "$before" "$(console)"
[[ $before == *1* ]] || fail "no console is bound, so nothing is tested"
define other pci="02:00.0 02:00.1" vcpus="2 3" emulator=0-1 node=0 shm=other
start other
is "with the other card's guest the consoles are bound" "$(console)" "$before"
stop other
define win
start win
prepared win
[[ $(qemu-hook status) == *console* ]] || fail "status does not say that the console is taken"
stop win
is "the consoles are bound" "$(console)" "$before"
as_before
