# shows: processes with huge pages of their own, from before and from meanwhile, keep them, and the pool keeps its size
echo 20 >/sys/devices/system/node/node1/hugepages/hugepages-2048kB/nr_hugepages
explain "/sys/devices/system/node/node1/hugepages/hugepages-2048kB/.*|/sys/kernel/mm/hugepages/hugepages-2048kB/.*|sysctl vm.nr_hugepages.*" \
	"the administrator's 20 pages, until they are given back below"
helper pages 10 1
before=$HELPER
define win
start win
# Of the administrator's pages ten were free: the guest got those, and 118 more were added.
is "pages on node 1" "$(pages 1)" 138
is "free pages on node 1" "$(pages 1 free_hugepages)" 0
echo 144 >/sys/devices/system/node/node1/hugepages/hugepages-2048kB/nr_hugepages
helper pages 6 1
meanwhile=$HELPER
prepared_but_pages() { is "the card" "$(driver 01:00.0)" vfio-pci && qemu_has win /dev/vfio/12; }
prepared_but_pages
stop win
is "pages on node 1" "$(pages 1)" 26
is "free pages on node 1" "$(pages 1 free_hugepages)" 10
end_helper "$before"
end_helper "$meanwhile"
is "what they found in them" "$(grep -h intact "$OUT"/helper.* | xargs)" "intact intact"
echo 0 >/sys/devices/system/node/node1/hugepages/hugepages-2048kB/nr_hugepages
: >"$OUT/explained"
as_before
