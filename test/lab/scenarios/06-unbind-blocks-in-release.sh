# shows: a card that something still holds when its guest is gone: release ends in time, libvirtd goes on, and all is as before once it is let go
# seconds: 300
define win
define other pci='' pages=no shm='' vcpus='' node=0
start win
prepared win
# QEMU's own open file of the card, doubled: vfio-pci waits until that one is closed too.
helper steal "$(qemu win)" '[vfio-device]'
stop win
is "libvirtd answers" "$(timeout 20 virsh domstate other | xargs)" "shut off"
start other
stop other
qemu-hook status
end_helper "$HELPER"
until_true 60 no_hook
qemu-hook recover
as_before
