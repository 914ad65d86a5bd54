# shows: pages that a process takes from the guest's pool just before they are given back stay its own, and are given back after it
define win
start win
# A hook before ours: the guest is gone, its pages are free, and somebody is quicker.
hook 40-quick <<'X'
[ "$2" = release ] || exit 0
labtool pages 16 1 </dev/null >/run/quick 2>&1 &
echo $! >/run/quick.pid
until grep -q ready /run/quick; do usleep 50000; done
X
stop win
rm "$HOOKS/40-quick"
is "pages on node 1" "$(pages 1)" 16
is "free pages on node 1" "$(pages 1 free_hugepages)" 0
qemu-hook status
kill "$(cat /run/quick.pid)"
until_true 20 grep -q intact /run/quick
rm /run/quick /run/quick.pid
qemu-hook recover
as_before
