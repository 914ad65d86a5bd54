# shows: the hook is killed in the middle of release, libvirtd goes on: qemu-hook recover leaves nothing of it
killable_hook
define win
start win
stop win
start win
kill_hook release $(($(hook_took release) / 2))
stop win
grep -q "^release .* 137$" "$OUT/times" || fail "the hook was quicker than the kill"
keep_hook
until_true 60 no_hook
qemu-hook recover
as_before
