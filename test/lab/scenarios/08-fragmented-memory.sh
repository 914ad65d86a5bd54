# shows: in fragmented memory the guest gets its pages, where a plain write to the pool gets fewer than half of them
# seconds: 240

# All of the node but 2000 MiB is out of the way; the rest is in pieces too small for a huge page.
free=$(awk '/MemFree/ { print int($4 / 1024) }' /sys/devices/system/node/node1/meminfo)
pool=/sys/devices/system/node/node1/hugepages/hugepages-2048kB/nr_hugepages
echo $(((free - 2000) / 2)) >$pool
held=$(<$pool)
helper pages "$held" 1
in_pieces() {
	helper fragment 1950 1
	grep "Node 1, zone   Normal" /proc/buddyinfo
}

# A kernel that never failed at it puts pieces together for a plain write, too, and gets far. Once it failed again and again, as on
# a host that has run for long, it puts that off for its next 64 tries.
in_pieces
for _ in {1..8}; do echo $((held + 600)) >$pool; done
echo "at first a plain write gets $(($(<$pool) - held)) of 600 pages, more than there can be"
echo "$held" >$pool
end_helper "$HELPER"

in_pieces
echo $((held + 440)) >$pool
plain=$(($(<$pool) - held))
echo "a plain write got $plain of 440 pages"
echo "$held" >$pool
end_helper "$HELPER"

in_pieces
define win memory=880 pci='' shm=''
start win
is "pages on node 1" "$(pages 1)" $((held + 440))
stop win
end_helper "$HELPER"
end_helper "${HELPERS[0]}"
echo 0 >$pool
as_before
((plain < 220)) || fail "a plain write got $plain: the memory was not in pieces small enough to show anything"
