# shows: in fragmented memory the guest gets its pages, where a plain write to the pool, by a kernel told not to compact for it, gets fewer than half
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

# How far a kernel gets that compacts for a plain write is chance: from 8 of 492 pages to all of 300 was seen here. These keep it
# from that, for the plain write and for the hook alike: nothing when it allocates, nothing beside that in kcompactd. What the hook
# asks for by itself, compact_memory, they do not keep it from.
threshold=$(</proc/sys/vm/extfrag_threshold) proactive=$(</proc/sys/vm/compaction_proactiveness)
echo 1000 >/proc/sys/vm/extfrag_threshold
echo 0 >/proc/sys/vm/compaction_proactiveness
in_pieces
echo $((held + 350)) >$pool
plain=$(($(<$pool) - held))
echo "a plain write got $plain of 350 pages"
echo "$held" >$pool
end_helper "$HELPER"

in_pieces
define win memory=700 pci='' shm=''
start win
is "pages on node 1" "$(pages 1)" $((held + 350))
stop win
end_helper "$HELPER"
end_helper "${HELPERS[0]}"
echo "$threshold" >/proc/sys/vm/extfrag_threshold
echo "$proactive" >/proc/sys/vm/compaction_proactiveness
echo 0 >$pool
as_before
((plain < 175)) || fail "a plain write got $plain: the memory was not in pieces small enough to show anything"
