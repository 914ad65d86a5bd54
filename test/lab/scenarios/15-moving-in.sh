# shows: moving in from a dispatcher with scripts of one's own: check names the fight, import writes the configuration, install --replace takes over, a guest runs, uninstall leaves /etc and /usr as they were
# seconds: 240
explain 'run of libvirtd.service: .*' "it was restarted"
explain 'unit qemu-hook-recover.service: .*' "it was installed for a while"
explain 'run of qemu-hook-recover.service: .*' "it has run"
explain 'unit virtqemud.service: .*' "the unit names it"

# The machine of somebody who has no qemu-hook yet: the program lies in their home, and scripts in libvirt's folder.
ours=$HOOKS/50-qemu-hook
put_back() {
	rm -rf /etc/libvirt/hooks/qemu "$HOOKS"/win
	install -m 755 /root/qemu-hook /usr/bin/qemu-hook
	ln -sf /usr/bin/qemu-hook "$ours"
	rm /root/qemu-hook
	systemctl reload libvirtd
}
mv /usr/bin/qemu-hook /root/qemu-hook
rm "$ours"
install -m 755 /dev/stdin /etc/libvirt/hooks/qemu <<'X'
#!/bin/bash
# Runs what lies in qemu.d/GUEST/EVENT/STATE.
set -e
dir="$(dirname "$0")/qemu.d/$1/$2/$3"
[ -d "$dir" ] || exit 0
for script in "$dir"/*; do
	if [ -x "$script" ]; then
		"$script" "$@"
	fi
done
X
mkdir -p "$HOOKS"/win/{prepare/begin,release/end}
install -m 755 /dev/stdin "$HOOKS/win/prepare/begin/start.sh" <<'X'
#!/bin/bash
set -x
echo 512 > /proc/sys/vm/nr_hugepages
systemctl set-property --runtime -- system.slice AllowedCPUs=0-3
virsh nodedev-detach pci_0000_01_00_0
sysctl vm.swappiness=10
X
install -m 755 /dev/stdin "$HOOKS/win/release/end/revert.sh" <<'X'
#!/bin/bash
set -x
virsh nodedev-reattach pci_0000_01_00_0
systemctl set-property --runtime -- system.slice AllowedCPUs=0-7
echo 0 > /proc/sys/vm/nr_hugepages
sysctl vm.swappiness=60
X

define win
tree | sort >"$OUT/tree.before"

cd /root || exit
./qemu-hook check win >"$OUT/check" 2>&1 || :
cat "$OUT/check"
for line in start.sh:3 start.sh:4 start.sh:5 revert.sh:3; do
	grep -q "win/.*/$line" "$OUT/check" || fail "check says nothing of $line"
done
mkdir /etc/qemu-hook
./qemu-hook import >/etc/qemu-hook/config.toml
cat /etc/qemu-hook/config.toml
./qemu-hook check --config-only
grep -q 'swappiness' /etc/qemu-hook/config.toml || fail "import says nothing of vm.swappiness"
./qemu-hook install && fail "it installs itself beside a hook that does the same"
tree | grep -v '^/etc/qemu-hook\|  /etc/qemu-hook/' | sort | diff "$OUT/tree.before" - || fail "a refused install has changed something"
./qemu-hook install --replace
systemctl reload libvirtd
[[ ! -e /etc/libvirt/hooks/qemu ]] || fail "the dispatcher is in its place still"

start win
prepared win
is vm.swappiness "$(cat /proc/sys/vm/swappiness)" 10
/usr/bin/qemu-hook uninstall && fail "it uninstalls itself under a guest"
stop win
is vm.swappiness "$(cat /proc/sys/vm/swappiness)" 60

/usr/bin/qemu-hook uninstall
rm -r /etc/qemu-hook
tree | sort | diff "$OUT/tree.before" - || fail "/etc and /usr are not as they were"
echo "/etc and /usr are as they were"
cd / || exit
put_back
as_before
