# shows: in fragmented memory the guest gets its pages, where a plain write to the pool gets fewer
# seconds: 300
free=$(awk '/MemFree/ { print int($4 / 1024) }' /sys/devices/system/node/node1/meminfo)
helper fragment $((free - 200)) 1
grep . /proc/buddyinfo
echo 256 >/sys/devices/system/node/node1/hugepages/hugepages-2048kB/nr_hugepages
plain=$(pages 1)
echo 0 >/sys/devices/system/node/node1/hugepages/hugepages-2048kB/nr_hugepages
echo "a plain write got $plain of 256 pages"
end_helper "$HELPER"
helper fragment $((free - 200)) 1
define win memory=512
start win
is "pages on node 1" "$(pages 1)" 256
stop win
end_helper "$HELPER"
as_before
((plain < 256)) || fail "a plain write got them all: the memory was not fragmented enough to show anything"
