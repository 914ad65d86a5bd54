# shows: a card that something still holds when its guest is gone: release ends in time, libvirtd goes on; once it is let go, qemu-hook recover or the next start gives all back
# seconds: 480
define win
define other pci='' pages=no shm='' vcpus='' node=0

# held_on_to has a guest that ran and whose card is let go of only after release has given up.
held_on_to() {
	local destroy hook began
	start win
	prepared win
	# QEMU's own open file of the card, doubled: vfio-pci waits until that one is closed too.
	helper steal "$(qemu win)" '[vfio-device]'
	began=$SECONDS
	timeout 150 virsh -q destroy win &
	destroy=$!
	hook=$(running_hook win release)
	is "libvirtd answers" "$(timeout 20 virsh domstate other | xargs)" "shut off"
	kill -0 "$hook" || fail "the hook was done when libvirtd answered"
	wait "$destroy"
	until_true 20 state_is win "shut off"
	echo "released in $((SECONDS - began)) s"
	((SECONDS - began < 100)) || fail "that took too long"
	start other
	stop other
	qemu-hook status
	end_helper "$HELPER"
	until_true 60 no_hook
}

held_on_to
qemu-hook recover
as_before

held_on_to
start win
prepared win
stop win
as_before
