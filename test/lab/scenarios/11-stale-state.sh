# shows: a state folder that was copied from another boot is not taken for true, neither by the next start nor by recover
define win
start win
cp -a /run/qemu-hook /var/tmp/stale
stop win
# As another boot had it: everything in it speaks of a guest that runs, and nothing of it is so.
boot=$(</proc/sys/kernel/random/boot_id)
grep -rq "$boot" /var/tmp/stale || fail "the state does not name its boot"
find /var/tmp/stale -type f -exec sed -i "s/$boot/00000000-0000-4000-8000-000000000000/g" {} +

cp -a /var/tmp/stale/. /run/qemu-hook/
start win
prepared win
stop win
as_before

cp -a /var/tmp/stale/. /run/qemu-hook/
qemu-hook recover
as_before
rm -r /var/tmp/stale
