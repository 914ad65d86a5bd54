# shows: a card whose sound a program does not let go of is refused in seconds with the program's name; once it lets go, qemu-hook recover or the next start gives all back
# seconds: 240
define win

# refused_by_name holds the sound and has the guest refused, twice; then the sound is let go of, and comes free by itself.
refused_by_name() {
	local node sentence began
	node=$(basename "${PCI}01:00.1"/sound/card*)
	node=/dev/snd/control${node/card/C}
	helper hold "$node"
	sentence="0000:01:00.1 is stuck in the kernel: labtool (pid $HELPER, lab-agent.service) has $node open; close that, and it comes free by itself"
	began=$SECONDS
	refused win "$sentence"
	echo "refused in $((SECONDS - began)) s"
	((SECONDS - began < 40)) || fail "that took too long"
	qemu-hook status | grep "^problem: .*close that, and it comes free by itself" || fail "status does not say what to do"
	refused win "$sentence"
	end_helper "$HELPER"
	until_true 60 no_hook
	is "what status says then" "$(qemu-hook status | grep '^problem: ')" "problem: 0000:01:00.1 was stuck in the kernel and is free again: qemu-hook recover"
}

refused_by_name
qemu-hook recover
as_before "$REFUSAL"

refused_by_name
start win
prepared win
stop win
as_before
