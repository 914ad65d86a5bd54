# shows: a guest lives through a restart of libvirtd with all it has, and gives it back afterwards
explain 'run of libvirtd.service: .*' "it was restarted"
log_calls
define win
start win
qemu=$(qemu win)
systemctl restart libvirtd
until_true 30 state_is win running
until_true 60 grep -q "win reconnect begin" "$OUT/calls"
is "its QEMU" "$(qemu win)" "$qemu"
prepared win
stop win
is "libvirt's calls" "$(calls win)" "prepare begin,start begin,started begin,reconnect begin,stopped end,release end"
