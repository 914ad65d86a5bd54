# shows: pages that a process takes from the guest's pool just before they are given back stay its own; after it they are given back by the next guest's release, or by qemu-hook recover
# seconds: 180
define win

# taken_meanwhile has a guest of whose pages 16 are in use when they are to be given back, and are free again afterwards.
taken_meanwhile() {
	start win
	# A hook before ours: the guest is gone, its pages are free, and somebody is quicker.
	hook 40-quick <<-'X'
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
}

taken_meanwhile
start win
prepared win
stop win
as_before

taken_meanwhile
qemu-hook recover
as_before
