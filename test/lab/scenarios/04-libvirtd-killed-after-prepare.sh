# shows: libvirtd is killed between prepare and start; the next start, or qemu-hook recover, leaves nothing of it
explain 'run of libvirtd.service: .*' "it was killed"
define win
# A hook behind ours that is slow: all is prepared, and QEMU does not run yet.
hook 60-slow <<'X'
[ "$2" = prepare ] && [ -d /run/slow ] || exit 0
echo $$ >/run/slow/pid
exec sleep 100
X

killed_after_prepare() {
	mkdir /run/slow
	virsh -q start win >/dev/null 2>&1 &
	local virsh=$!
	until_true 60 test -s /run/slow/pid
	kill -9 "$(pidof libvirtd)"
	wait "$virsh" && fail "win started"
	# It was still at it, so libvirtd was, too.
	kill "$(cat /run/slow/pid)"
	rm -r /run/slow
	until_true 60 systemctl -q is-active libvirtd
	until_true 60 state_is win "shut off"
	is 01:00.0 "$(driver 01:00.0)" vfio-pci
}

killed_after_prepare
start win
prepared win
stop win
as_before

killed_after_prepare
qemu-hook recover
as_before
