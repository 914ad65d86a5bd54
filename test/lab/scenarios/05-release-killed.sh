# shows: the hook is killed at ten random moments of release: the guest starts again each time, and in the end nothing is left
# seconds: 600
seed=$EPOCHSECONDS
RANDOM=$seed
echo "seed $seed"
killable_hook
define win
start win
stop win
took=$(hook_took release)
for i in {0..9}; do
	after=$((took * i / 10 + RANDOM % (took / 10)))
	echo "moment $((i + 1)): after $after of $took ms"
	# This start is the next one after the moment before.
	start win
	kill_hook release "$after"
	stop win
	keep_hook
	until_true 60 no_hook
	if ((i % 5 == 4)); then
		start win
		prepared win
		stop win
		as_before
	fi
done
killed=$(grep -c "^release .* 137$" "$OUT/times") || :
((killed > 5)) || fail "the hook was quicker than the kill in all but $killed of ten"
echo "killed $killed times of ten"
