# shows: libvirtd is killed, and the guest's QEMU too before any libvirtd sees it: the next one finds it gone and has it released
explain 'run of libvirtd.service: .*' "it was killed"
define win
start win
prepared win
qemu=$(qemu win)
libvirtd=$(pidof libvirtd)
# One that is stopped does not see QEMU's end, and systemd starts no other beside it.
kill -STOP "$libvirtd"
kill -9 "$qemu"
until_true 20 test ! -e "/proc/$qemu"
is 01:00.0 "$(driver 01:00.0)" vfio-pci
kill -9 "$libvirtd"
until_true 60 state_is win "shut off"
until_true 60 no_hook
as_before
