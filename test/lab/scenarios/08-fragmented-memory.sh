# shows: in fragmented memory the guest gets its pages, where a plain write to the pool gets fewer
# seconds: 240

# All of the node but 700 MiB is out of the way; the rest is in pieces too small for a huge page.
free=$(awk '/MemFree/ { print int($4 / 1024) }' /sys/devices/system/node/node1/meminfo)
pool=/sys/devices/system/node/node1/hugepages/hugepages-2048kB/nr_hugepages
echo $(((free - 700) / 2)) >$pool
held=$(<$pool)
helper pages "$held" 1
in_pieces() {
	helper fragment 600 1
	grep "Node 1, zone   Normal" /proc/buddyinfo
}
in_pieces
echo $((held + 180)) >$pool
plain=$(($(<$pool) - held))
echo "a plain write got $plain of 180 pages"
echo "$held" >$pool
end_helper "$HELPER"

in_pieces
define win memory=360 pci='' shm=''
start win
is "pages on node 1" "$(pages 1)" $((held + 180))
stop win
end_helper "$HELPER"
end_helper "${HELPERS[0]}"
echo 0 >$pool
as_before
((plain < 180)) || fail "a plain write got them all: the memory was not in pieces small enough to show anything"
