# shows: the Debian package is installed, a guest starts and stops, the package is purged: the machine is as before
# needs: package
# seconds: 240
explain 'run of libvirtd.service: .*' "it was restarted"
explain 'unit qemu-hook-recover.service: .*' "it was installed for a while"
explain 'run of qemu-hook-recover.service: .*' "it has run"
explain 'unit virtqemud.service: .*' "the unit names it"
mv /usr/bin/qemu-hook /root/qemu-hook
rm "$HOOKS/50-qemu-hook"

# The guest is defined before, as that is written to /etc too.
define win
tree | sort >"$OUT/tree.before"
dpkg -i /run/lab/dist/qemu-hook_*.deb
dpkg -V qemu-hook
[[ ! -e $HOOKS/50-qemu-hook ]] || fail "the package puts a hook in place"
qemu-hook install
systemctl reload libvirtd
start win
prepared win
dpkg --purge qemu-hook && fail "the package goes under a guest"
stop win
dpkg --purge qemu-hook
[[ ! -e /usr/bin/qemu-hook && ! -e $HOOKS/50-qemu-hook ]] || fail "something of the package is left"
dpkg -l qemu-hook 2>/dev/null | grep '^.i' && fail "the package is installed still"
tree | sort | diff "$OUT/tree.before" - || fail "/etc and /usr are not as they were"

install -m 755 /root/qemu-hook /usr/bin/qemu-hook
ln -s /usr/bin/qemu-hook "$HOOKS/50-qemu-hook"
rm /root/qemu-hook
systemctl reload libvirtd
as_before
