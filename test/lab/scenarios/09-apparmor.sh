# shows: where AppArmor confines libvirtd, the hook, a link to /usr/bin, does its work unconfined, as Debian's profile has it
label() { cat "/proc/$1/attr/current"; }
is "libvirtd is" "$(label "$(pidof libvirtd)")" "libvirtd (enforce)"
# P: to a profile of the program's own, U: without one unconfined. What lies in the folder of hooks itself inherits (i).
rule() { sed -nE "s,^ *$1 +([A-Za-z]+)\,.*,\1,p" /etc/apparmor.d/usr.sbin.libvirtd; }
is "the rule for /usr/bin" "$(rule '/usr/bin/\*')" PUx
is "the rule for hooks" "$(rule '/etc/libvirt/hooks/\*\*')" rmix

# It reads a line from a pipe that the scenario writes to, so as to be looked at meanwhile.
mkfifo /run/60-waits
hook 60-waits <<'X'
[ "$2" = prepare ] || exit 0
read -r _ </run/60-waits
X
define win
since=$(date +%s)
virsh -q start win &
virsh=$!
hook=$(running_hook win prepare)
# The hook's worker is there for a part of a second: no program is started to look for it.
worker='' end=$((SECONDS + 60))
until [[ -n $worker ]]; do
	((SECONDS < end)) || fail "the hook never had a worker"
	for file in "/proc/$hook/task"/*/children; do
		[[ -n $worker ]] || read -r worker _ <"$file" || :
	done 2>/dev/null
done
kill -STOP "$worker"
is "its worker is" "$(readlink "/proc/$worker/exe")" /usr/bin/qemu-hook
is "the hook's label" "$(label "$hook")" unconfined
is "its worker's label" "$(label "$worker")" unconfined
kill -CONT "$worker"
other=$(process -f "$HOOKS/60-waits win prepare")
is "another hook's label, which is no link" "$(label "$other")" "libvirtd (enforce)"
echo >/run/60-waits
wait "$virsh"
rm "$HOOKS/60-waits" /run/60-waits
prepared win
stop win
journalctl --since "@$since" _TRANSPORT=audit + SYSLOG_IDENTIFIER=audit | grep -e DENIED | grep -e qemu-hook &&
	fail "AppArmor denied the hook something"
as_before
