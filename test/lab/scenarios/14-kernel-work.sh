# shows: workqueues, the lockup detector and the kernel's threads leave a guest's CPUs and come back, also while a CPU is taken off line meanwhile and comes back after it
masks() { echo "$(cat /sys/devices/virtual/workqueue/cpumask) $(cat /sys/devices/virtual/workqueue/writeback/cpumask) $(cat /proc/sys/kernel/watchdog_cpumask)"; }
# Those that handle an interrupt go where that goes, at its next one.
threads() {
	local pid
	for pid in $(cat /proc/2/task/2/children) 2; do
		# PF_NO_SETAFFINITY: the kernel lets nobody move it.
		(($(awk '{ print $9 }' "/proc/$pid/stat" 2>/dev/null || echo 67108864) & 0x04000000)) ||
			echo "$(cat "/proc/$pid/comm") $(sed -n 's/^Cpus_allowed_list:\t//p' "/proc/$pid/status")"
	done | grep -v ^irq/ | sort
}
before=$(masks)
threads >"$OUT/threads"
[[ $(grep -c . "$OUT/threads") -gt 5 ]] || fail "the kernel has too few threads that can be moved to show anything"
define win
start win
is "the masks" "$(masks)" "cf cf 0-3,6-7"
threads | while read -r name list; do
	for part in ${list//,/ }; do ((${part%-*} > 5 || ${part#*-} < 4)) || fail "the kernel's thread $name may run on CPUs $list"; done
done
echo 0 >/sys/devices/system/cpu/cpu2/online
stop win
echo 1 >/sys/devices/system/cpu/cpu2/online
is "the masks" "$(masks)" "$before"
# This kernel gives a CPU that is off line to no thread: that is made up for when something looks next.
qemu-hook recover
# What the card's driver requested while the CPU was off line does not have it: that is the kernel's.
for handler in /proc/irq/*/snd_hda_intel*/; do
	file=$(dirname "$handler")/smp_affinity
	[[ $(cat "$file") != fb ]] || echo ff >"$file"
done
threads | diff "$OUT/threads" - || fail "the kernel's threads are not where they were"
as_before
