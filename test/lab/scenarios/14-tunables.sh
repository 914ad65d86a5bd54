# shows: tunables have the configured values while guests run and those from before afterwards, but for one that somebody else sets meanwhile
thp=/sys/kernel/mm/transparent_hugepage/enabled
config <<'X'
[tunables]
vm.swappiness = 1
vm.stat_interval = 120
vm.dirty_ratio = 5
kernel.watchdog = 0
"/sys/kernel/mm/transparent_hugepage/enabled" = "never"
[guest.two.tunables]
vm.swappiness = 10
X
chosen() { sed 's/.*\[\(.*\)\].*/\1/' $thp; }
values() { echo "$(cat /proc/sys/vm/swappiness) $(cat /proc/sys/vm/stat_interval) $(cat /proc/sys/vm/dirty_ratio) $(cat /proc/sys/kernel/watchdog) $(chosen)"; }
bytes=$(cat /proc/sys/vm/dirty_ratio)
echo 100000000 >/proc/sys/vm/dirty_bytes # of which the kernel makes dirty_ratio 0
before=$(values)
define one
define two pci="02:00.0 02:00.1" vcpus="2 3" emulator=0-1 node=0 shm=two
start one
is "the values" "$(values)" "1 120 5 0 never"
start two
is "who came first decides" "$(cat /proc/sys/vm/swappiness)" 1
stop one
is "then the other" "$(cat /proc/sys/vm/swappiness)" 10
echo 60 >/proc/sys/vm/stat_interval
qemu-hook status | grep '^drifted: /proc/sys/vm/stat_interval: "60" instead of "120"' || fail "status does not say what somebody else has set"
stop two
is "the values, but for the one that somebody else has set" "$(values)" "${before/ 1 / 60 }"
is "dirty_bytes" "$(cat /proc/sys/vm/dirty_bytes)" 100000000
echo 1 >/proc/sys/vm/stat_interval
echo "$bytes" >/proc/sys/vm/dirty_ratio
rm -r /etc/qemu-hook
as_before
