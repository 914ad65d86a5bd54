# shows: a driver that does not let go of the card's sound: the guest is refused in time, libvirtd goes on; once it lets go, the next start works
# seconds: 300

# The sound driver waits for its last user. This one no look into /proc finds: the open file is on its way through a socket.
node=$(basename "${PCI}01:00.1"/sound/card*)
helper hide "/dev/snd/control${node/card/C}"
define win
define other pci='' pages=no shm='' vcpus='' node=0
began=$SECONDS
virsh -q start win >"$OUT/said" 2>&1 &
virsh=$!
hook=$(running_hook win prepare)
worker=$(process -P "$hook" -f '^qemu-hook worker')
waits() { grep -q '^State:.*disk sleep' "/proc/$worker"/task/*/status; }
until_true 30 waits
is "libvirtd answers" "$(timeout 20 virsh domstate other | xargs)" "shut off"
kill -0 "$hook" || fail "the hook was done when libvirtd answered"
wait "$virsh" && fail "win started"
took=$((SECONDS - began))
echo "refused in $took s"
((took < 40)) || fail "that took too long"
refusal_is win "$(<"$OUT/said")" '0000:01:00.1 is stuck in the kernel: writing "0000:01:00.1" to /sys/bus/pci/drivers/snd_hda_intel/unbind has not returned for <N>s; only a reboot helps'
start other
stop other
end_helper "$HELPER"
until_true 60 no_hook
start win
prepared win
stop win
as_before
