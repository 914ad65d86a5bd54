# shows: the card that the host's console is on gives it up for the guest, and gets it back; another card's guest leaves the console alone
console() { cat /sys/class/vtconsole/vtcon*/bind | xargs; }
explain 'unit sys-devices-.*-(sound|drm)-card[01].*|file /dev/(snd|dri)/.*' "the numbers of the host's cards"

# Whose the first frame buffer is depends on what ran before.
with=$(readlink -f /sys/class/graphics/fb0 | grep -o '0000:0[12]:00\.0' | cut -d: -f2)
without=$([[ $with == 01 ]] && echo 02 || echo 01)
before=$(console)
echo "the console is on $with:00.0: $before"
[[ $before == *1* ]] || fail "no console is bound, so nothing is tested"
define other pci="$without:00.0 $without:00.1" vcpus="2 3" emulator=0-1 node=0 shm=other
start other
is "with the other card's guest the consoles are bound" "$(console)" "$before"
stop other
define win pci="$with:00.0 $with:00.1"
start win
is "the card" "$(driver "$with:00.0")" vfio-pci
[[ $(qemu-hook status) == *"the host's console is taken"* ]] || fail "status does not say that the console is taken"
stop win
[[ $(console) == *1* ]] || fail "no console is bound any more"
[[ $(qemu-hook status) != *"console is taken"* ]] || fail "the console is still taken"
as_before '/sys/class/vtconsole/.*'
explain '/sys/class/vtconsole/.*' "the console may be on the other card now, which had its frame buffer first"
