# shows: a state folder that was copied from another boot is not taken for true, neither by the next start nor by recover

# In another boot, as far as the hook can tell, the guest runs and has all it needs.
cat /proc/sys/kernel/random/uuid >/var/tmp/another-boot
mount --bind /var/tmp/another-boot /proc/sys/kernel/random/boot_id
define win
start win
cp -a /run/qemu-hook /var/tmp/stale
stop win
umount /proc/sys/kernel/random/boot_id
grep -rq "$(</var/tmp/another-boot)" /var/tmp/stale || fail "the state does not name its boot"

# In this one, none of it is so. What does not belong to it is laid aside and kept.
aside='file /run/qemu-hook/.*[.]other-boot: .*'
cp -a /var/tmp/stale/. /run/qemu-hook/
start win
prepared win
stop win
as_before "$aside"

cp -a /var/tmp/stale/. /run/qemu-hook/
qemu-hook recover
as_before "$aside"
rm -r /run/qemu-hook/*.other-boot /var/tmp/stale /var/tmp/another-boot
