# shows: with cpus.confine_guests a guest that is pinned nowhere keeps off the CPUs of one that is, whichever starts first
config <<<'cpus.confine_guests = true'
define win
define plain pci='' pages=no shm='' vcpus='' node=0
may_use() { sed -n 's/^Cpus_allowed_list:\t//p' "/proc/$(qemu plain)/status"; }
start plain
is "plain may use" "$(may_use)" 0-7
start win
until_true 10 test "$(may_use)" = 0-3,6-7
prepared win
stop win
until_true 10 test "$(may_use)" = 0-7
stop plain

start win
start plain
until_true 10 test "$(may_use)" = 0-3,6-7
stop plain
stop win
rm -r /etc/qemu-hook
as_before
