# shows: the hook is killed in the middle of release, libvirtd goes on: qemu-hook recover leaves nothing of it
killable_hook
define win
again() {
	start win
	stop win
	until_true 60 no_hook
}
again
killed_at release $(($(last_call release) / 2)) again
qemu-hook recover
as_before
