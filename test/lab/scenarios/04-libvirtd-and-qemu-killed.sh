# shows: libvirtd is killed while a guest runs, and QEMU too before it is back: libvirtd finds it gone and has it released
define win
start win
prepared win
systemctl stop libvirtd.socket libvirtd-ro.socket libvirtd-admin.socket
systemctl kill --signal=KILL libvirtd
kill -9 "$(qemu win)"
systemctl reset-failed libvirtd || :
systemctl start libvirtd.socket libvirtd-ro.socket libvirtd-admin.socket libvirtd
until_true 60 state_is win "shut off"
until_true 60 no_hook
as_before
