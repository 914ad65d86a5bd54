# shows: the snapshots see a change of each kind: without this no other scenario's "as before" says anything
free=/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages
function=${PCI}02:00.0

# seen KEY (an expression): the state differs in what the key says, and in nothing else.
seen() {
	snapshot >"$OUT/now"
	if labtool compare "$OUT/before" "$OUT/now" /dev/null >"$OUT/seen"; then fail "a change of $1 is not seen"; fi
	grep -qE "^differs:   ($1)" "$OUT/seen" || fail "a change of $1 is told as: $(cat "$OUT/seen")"
	if grep -vE "^differs:   ($1)" "$OUT/seen"; then fail "and more than $1 differs"; fi
	echo "seen: $1"
}

# set_and_back FILE VALUE KEY writes a value, wants that seen, and writes the old one again.
set_and_back() {
	local old
	old=$(cat "$1")
	old=${old##*[} # of "always [madvise] never", the one that is chosen
	old=${old%%]*}
	echo "$2" >"$1"
	seen "$3"
	echo "$old" >"$1"
	as_before
}

set_and_back "$function/driver_override" lab "pci 0000:02:00.0 driver_override"
set_and_back "$function/power/control" "$(sed 's/on/auto/;t;s/auto/on/' "$function/power/control")" "pci 0000:02:00.0 power/control"
set_and_back "$free" 3 "/sys/.*hugepages|sysctl vm.nr_hugepages"
set_and_back /sys/kernel/mm/transparent_hugepage/defrag never "/sys/kernel/mm/transparent_hugepage/defrag"
set_and_back /proc/sys/vm/stat_interval 7 "sysctl vm.stat_interval"

# An interrupt of a device's. Some cannot be moved: the first that can is taken.
moved=''
for handler in /proc/irq/*/*/; do
	irq=$(dirname "$handler")
	mask=$(cat "$irq/smp_affinity")
	! echo 2 >"$irq/smp_affinity" 2>/dev/null || [[ $(cat "$irq/smp_affinity") == "$mask" ]] || { moved=$irq && break; }
done
[[ -n $moved ]] || fail "no device's interrupt can be moved"
seen "irq of $(basename "$handler")"
echo "$mask" >"$moved/smp_affinity"

node=$(echo /dev/snd/controlC*) && node=${node%% *}
chmod 600 "$node"
seen "file /dev/snd/controlC\\* of 0000:0[12]:00.1"
chmod 660 "$node"

systemctl set-property --runtime system.slice AllowedCPUs=0-5
seen "cgroup .*|file /run/systemd/system.control.*" # with the controller comes more than one value
grep "^differs:   cgroup /system.slice cpus:  -> 0-5" "$OUT/seen" || fail "a slice's CPUs are not seen"
systemctl revert system.slice
rmdir /run/systemd/system.control

taskset -pc 6 "$(pgrep -x kswapd1)"
seen "kernel thread kswapd1 cpus"
taskset -pc 4-7 "$(pgrep -x kswapd1)"
modprobe squashfs
seen "module squashfs"
modprobe -r squashfs

: >/dev/shm/lab
seen "file /dev/shm/lab"
rm /dev/shm/lab
: >/etc/libvirt/lab
seen "file /etc/libvirt/lab"
rm /etc/libvirt/lab
helper hold /dev/null
seen "processes of labtool"
end_helper "$HELPER"
systemd-run --quiet --unit=lab sleep 100
seen "unit lab.service|run of lab.service|file /run/systemd/transient.*"
grep "^differs:   unit lab.service: (none) -> loaded active running" "$OUT/seen" || fail "a unit is not seen"
systemctl stop lab
as_before
systemctl restart virtlogd
seen "run of virtlogd.service"
explain 'run of virtlogd.service: .*' "it was started again to be seen"
