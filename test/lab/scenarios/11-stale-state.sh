# shows: a state folder that was copied from another boot is not taken for true, neither by the next start nor by recover
# boots-again: yes
define win

# In the first boot the guest runs and has all it needs.
if [[ ! -d $OUT/stale ]]; then
	start win
	cp -a /run/qemu-hook "$OUT/stale"
	stop win
	as_before
	exit
fi

# In the second, none of it is so. What does not belong to it is laid aside and kept.
aside='file /run/qemu-hook/.*[.]other-boot: .*'
! grep -rq "$(</proc/sys/kernel/random/boot_id)" "$OUT/stale" || fail "the state is of this boot"
mkdir -p /run/qemu-hook
cp -a "$OUT/stale/." /run/qemu-hook/
start win
prepared win
stop win
as_before "$aside"

cp -a "$OUT/stale/." /run/qemu-hook/
qemu-hook recover
as_before "$aside"
rm -r /run/qemu-hook/*.other-boot
