# shows: prepare and release by the program cost at most a tenth of the CPU time that a plain shell hook takes for the same, less what the kernel's part costs both
# expect-fail: defect: ours takes more than half; four starts of a Go program alone come to near a tenth, see docs/lab.md
# fails-with: ours takes more than a tenth
# seconds: 240

# This one calls the hooks itself, to have their times and nothing else's.
domain win >"$OUT/win.xml"
pool=/sys/devices/system/node/node1/hugepages/hugepages-2048kB/nr_hugepages
TIMEFORMAT='%R %U %S'

ours() { /usr/bin/qemu-hook win "$1" "$2" - <"$OUT/win.xml"; }
plain() { /lab/guest/plain-hook win "$1" "$2" - <"$OUT/win.xml"; }
# The writes alone, by a shell that runs already.
floor() {
	local f to=vfio-pci more=128
	[[ $1 == prepare ]] || to='' more=-128
	for f in 0000:01:00.0 0000:01:00.1; do
		echo "$to" >"/sys/bus/pci/devices/$f/driver_override"
		echo "$f" >"/sys/bus/pci/devices/$f/driver/unbind"
		echo "$f" >/sys/bus/pci/drivers_probe
	done
	echo $(($(<"$pool") + more)) >"$pool"
}

for round in {0..5}; do
	for hook in ours plain floor; do
		{ time "$hook" prepare begin; } 2>>"$OUT/$hook.prepare"
		is "$hook" "$(driver 01:00.0) $(<$pool)" "vfio-pci 128" >/dev/null
		{ time "$hook" release end; } 2>>"$OUT/$hook.release"
		is "$hook" "$(driver 01:00.0) $(<$pool)" "bochs-drm 0" >/dev/null
	done
done
# The first round warms up; of the others the best counts, as nothing but another load makes one worse.
best() { tail -n +2 "$OUT/$1.$2" | awk -v what="$3" '{ t = what == "wall" ? $1 : $2 + $3 } NR == 1 || t < min { min = t } END { printf "%d\n", min * 1000 + 0.5 }'; }
echo "milliseconds          CPU: prepare release   wall: prepare release"
declare -A cpu
for hook in ours plain floor; do
	printf '%-20s %12d %7d %15d %7d\n' "$hook" "$(best $hook prepare cpu)" "$(best $hook release cpu)" "$(best $hook prepare wall)" "$(best $hook release wall)"
	cpu[$hook]=$(($(best $hook prepare cpu) + $(best $hook release cpu)))
done
# What systemctl leaves behind.
rm -rf /run/systemd/system.control /run/systemd/transient/init.scope.d
systemctl daemon-reload
as_before
ours=$((cpu[ours] - cpu[floor])) plain=$((cpu[plain] - cpu[floor]))
echo "less the floor: ours $ours ms, the shell's $plain ms"
((10 * ours <= plain)) || fail "ours takes more than a tenth"
