# shows: the hook is killed in the middle of release, libvirtd goes on: qemu-hook recover leaves nothing of it
# expect-fail: issue 6: recover takes a guest whose libvirtd lives for one that runs, though its release was called
killable_hook
define win
start win
kill_hook release 100
stop win
keep_hook
until_true 60 no_hook
qemu-hook recover
as_before
