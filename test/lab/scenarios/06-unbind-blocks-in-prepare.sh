# shows: a driver that does not let go of the card's sound: the guest is refused in time, libvirtd goes on, and all is as before once it lets go
# seconds: 300

# The sound driver waits for its last user. This one no look into /proc finds: the open file is on its way through a socket.
node=$(basename "${PCI}01:00.1"/sound/card*)
helper hide "/dev/snd/control${node/card/C}"
define win
define other pci='' pages=no shm='' vcpus='' node=0
virsh -q start win >"$OUT/said" 2>&1 &
virsh=$!
sleep 10
is "libvirtd answers" "$(timeout 20 virsh domstate other | xargs)" "shut off"
wait "$virsh" && fail "win started"
cat "$OUT/said"
start other
stop other
end_helper "$HELPER"
until_true 60 no_hook
qemu-hook recover
as_before "$REFUSAL"
start win
prepared win
stop win
as_before
