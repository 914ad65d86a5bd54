# shows: libvirtd is killed in the middle of a prepare; the next start, or qemu-hook recover, leaves nothing of it
explain 'run of libvirtd.service: .*' "it was killed"
define win

killed_in_prepare() {
	local virsh pid end=$((SECONDS + 60))
	virsh -q start win >/dev/null 2>&1 &
	virsh=$!
	until [[ -s $LEDGER ]]; do
		((SECONDS < end)) || fail "nothing came on record"
		sleep 0.02
	done
	# It stands still in the middle, until libvirtd is gone.
	pid=$(pgrep -f "^$HOOKS/50-qemu-hook win prepare ")
	kill -STOP "$pid"
	until_true 20 grep -q '^State:.*stopped' "/proc/$pid/status"
	kill -9 "$(pidof libvirtd)"
	wait "$virsh" && fail "win started"
	kill -CONT "$pid"
	until_true 60 systemctl -q is-active libvirtd
	until_true 60 state_is win "shut off"
	until_true 60 no_hook
	test -s "$LEDGER" || fail "nothing is on record"
}

killed_in_prepare
start win
prepared win
stop win
as_before

killed_in_prepare
qemu-hook recover
as_before
