# shows: where AppArmor confines libvirtd, the hook, a link to /usr/bin, does its work unconfined
is "libvirtd is" "$(cat "/proc/$(pidof libvirtd)/attr/current")" "libvirtd (enforce)"
hook 60-slow <<<'[ "$2" != release ] || sleep 2'
define win
since=$(date +%s)
start win
prepared win
stop win
journalctl --since "@$since" _TRANSPORT=audit + SYSLOG_IDENTIFIER=audit | grep -e DENIED | grep -e qemu-hook &&
	fail "AppArmor denied the hook something"
rm "$HOOKS/60-slow"
as_before
