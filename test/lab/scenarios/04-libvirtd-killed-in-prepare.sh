# shows: libvirtd is killed in the middle of a prepare; the next start, or qemu-hook recover, leaves nothing of it
define win

killed_in_prepare() {
	virsh -q start win >/dev/null 2>&1 &
	local virsh=$!
	until_true 60 test -s "$LEDGER"
	kill -9 "$(pidof libvirtd)"
	wait "$virsh" && fail "win started"
	until_true 60 systemctl -q is-active libvirtd
	until_true 60 state_is win "shut off"
	until_true 60 no_hook
}

killed_in_prepare
test -s "$LEDGER" || fail "nothing is on record: libvirtd was killed too late or too early"
start win
prepared win
stop win
as_before

killed_in_prepare
qemu-hook recover
as_before
