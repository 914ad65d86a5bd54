# shows: qemu-hook-recover.service gives back what nobody will release before libvirtd starts again, has an own command run outside of its confinement, and leaves what runs and what was prepared by hand
explain 'run of libvirtd.service: .*' "it was killed"
explain 'file /etc/systemd/system.*' "the unit is installed for this scenario"
explain 'unit qemu-hook-recover.service: .*' "it has run"
explain 'unit virtqemud.service: .*' "the unit names it"
explain 'run of qemu-hook-recover.service: .*' "it has run"
unit=/etc/systemd/system/qemu-hook-recover.service
install -m 644 /run/lab/dist/qemu-hook-recover.service "$unit"
systemctl -q enable qemu-hook-recover.service
systemctl daemon-reload
systemd-analyze security --no-pager qemu-hook-recover.service | tail -n 1

recovered() { journalctl -q --sync; journalctl -q -o cat -u qemu-hook-recover.service -n 20; }
libvirtd_again() {
	until_true 60 systemctl -q is-active libvirtd
	until_true 60 virsh -q list
	recovered
	is "the unit's result" "$(systemctl show -P Result qemu-hook-recover.service)" success
}

define win
# What runs last may write where the unit may not.
own=/usr/local/sbin/own-command
cat >$own <<'X'
#!/bin/sh
echo "$QEMU_HOOK_OPERATION $QEMU_HOOK_GUEST $*" >>/etc/own-command
X
chmod 755 $own
config <<X
[[guest.win.run]]
after = ["$own", "a  b", "\$HOME", "%n"]
X
# A hook behind ours that is slow: all is prepared, and QEMU does not run yet.
hook 60-slow <<'X'
[ "$2" = prepare ] && [ -d /run/slow ] || exit 0
echo $$ >/run/slow/pid
exec sleep 100
X
mkdir /run/slow
virsh -q start win >/dev/null 2>&1 &
virsh=$!
until_true 60 test -s /run/slow/pid
is 01:00.0 "$(driver 01:00.0)" vfio-pci
kill -9 "$(pidof libvirtd)"
wait "$virsh" && fail "win started"
kill "$(cat /run/slow/pid)"
rm -r /run/slow
libvirtd_again
recovered | grep -qx 'win: given back' || fail "it says nothing of win"
is "what the own command had" "$(cat /etc/own-command)" 'release win a  b $HOME %n'
rm -r $own /etc/own-command /etc/qemu-hook
as_before

# A guest that runs while the daemon is killed, and one that is prepared by hand.
start win
define other pci="02:00.0 02:00.1" vcpus='' pages=no shm=
qemu-hook prepare other
kill -9 "$(pidof libvirtd)"
libvirtd_again
prepared win
is 02:00.0 "$(driver 02:00.0)" vfio-pci
stop win
qemu-hook release other
as_before

systemctl -q disable qemu-hook-recover.service
rm "$unit"
systemctl daemon-reload
systemctl reset-failed 2>/dev/null || :
