# shows: a guest without functions is migrated, running, to another libvirtd: the hook is given its XML there, and leaves it unharmed
# seconds: 240

# The other host is a second libvirtd of the same machine, with a name, folders and a UUID of its own, and the same hooks,
# whose records are its own as well.
other=/run/other
mkdir -p $other/run
mkdir -m 0700 $other/state
cp -a /etc/libvirt $other/etc
cp -a /var/lib/libvirt $other/lib
echo 'host_uuid = "07e407e4-07e4-47e4-87e4-07e407e407e4"' >>$other/etc/libvirtd.conf
# Who would keep QEMU's log belongs to the first one.
echo 'stdio_handler = "file"' >>$other/etc/qemu.conf
log_calls
cp "$HOOKS/90-calls" $other/etc/hooks/qemu.d/
unshare --mount --uts bash -c "hostname other && mount --bind $other/etc /etc/libvirt && mount --bind $other/lib /var/lib/libvirt &&
	mount --bind $other/run /run/libvirt && mkdir -p -m 0700 /run/qemu-hook && mount --bind $other/state /run/qemu-hook && exec libvirtd --pid-file $other/run/libvirtd.pid" >"$OUT/other.log" 2>&1 &
there=$!
HELPERS+=("$there")
until_true 60 test -S $other/run/libvirt-sock
to="qemu+unix:///system?socket=$other/run/libvirt-sock"
is "the other's name" "$(virsh -c "$to" hostname | xargs)" other

# xml URI NAME prints a running guest, without the number and the name that it has with that libvirtd.
xml() { virsh -c "$1" dumpxml --security-info "$2" | sed "1s/ id='[0-9]*'//; 2s,<name>$2</name>,,"; }
define plain pci='' shm='' pages=no vcpus="0 1" emulator=0-1 node=0
start plain
xml qemu:///system plain >"$OUT/here"
timeout 150 virsh -q migrate --live plain "$to" --migrateuri tcp://127.0.0.1 --dname moved
is "the guest is there" "$(virsh -c "$to" domstate moved | xargs)" running
state_is plain "shut off" || fail "it is still here"
xml "$to" moved >"$OUT/there"
diff "$OUT/here" "$OUT/there" || fail "the guest's XML is not what it was"
is "libvirt's calls there" "$(calls moved)" "migrate begin,prepare begin,start begin,started begin"
test ! -e $other/state/ledger.json || fail "a guest that has nothing of the host is on record there"
timeout 60 virsh -q -c "$to" destroy moved
kill "$there"
wait "$there" || fail "the other libvirtd ended badly: $(cat "$OUT/other.log")"
rm -r $other /var/log/libvirt/qemu/moved.log
as_before
