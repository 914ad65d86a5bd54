# shows: managedsave, save, restore and a snapshot of a guest without functions go as without the hook: its XML is unharmed
qemu-img create -q -f qcow2 /var/tmp/disk.qcow2 16M
define plain pci='' shm='' pages=no vcpus="0 1" emulator=0-1 node=0 disk=/var/tmp/disk.qcow2
sed -i "s,<source file='/var/tmp/disk.qcow2'/>,<driver name='qemu' type='qcow2'/>&," "$OUT/plain.xml"
virsh -q define "$OUT/plain.xml"
log_calls
xml() { virsh dumpxml plain --inactive; }
# What the guest runs with, and a filter could have changed, without libvirt's number for this run.
live_xml() { virsh dumpxml --security-info plain | sed "1s/ id='[0-9]*'//"; }
# unharmed WHAT: the guest runs with the same as at first.
unharmed() {
	live_xml | diff "$OUT/live" - || fail "$1 changed the XML of the guest that runs"
	echo "unharmed by $1"
}
xml >"$OUT/xml"

start plain
live_xml >"$OUT/live"
timeout 100 virsh -q managedsave plain
start plain
unharmed "managedsave and start"
timeout 100 virsh -q save plain "$OUT/saved"
timeout 100 virsh -q restore "$OUT/saved"
unharmed "save and restore"
timeout 100 virsh -q snapshot-create-as plain one
timeout 100 virsh -q snapshot-revert plain one
unharmed "snapshot and revert"
is "the guest is" "$(virsh domstate plain | xargs)" running
virsh -q snapshot-delete plain one
stop plain
xml | diff "$OUT/xml" - || fail "the domain's XML is not what it was"
calls plain
[[ $(calls plain) == *"restore begin"* ]] || fail "libvirt never called restore"
rm -f /var/tmp/disk.qcow2 "$OUT/saved"
as_before
