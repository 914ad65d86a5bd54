# shows: the hook is killed at ten random moments of prepare: the guest does not start, and nothing is left
# seconds: 600
seed=$EPOCHSECONDS
RANDOM=$seed
echo "seed $seed"
killable_hook
define win
start win
stop win
took=$(hook_took prepare)
for i in {0..9}; do
	after=$((took * i / 10 + RANDOM % (took / 10)))
	echo "moment $((i + 1)): after $after of $took ms"
	kill_hook prepare "$after"
	if start win; then
		prepared win
		stop win
	fi
	keep_hook
	until_true 60 no_hook
	as_before
done
start win
prepared win
stop win
as_before
killed=$(grep -c "^prepare .* 137$" "$OUT/times") || :
((killed > 5)) || fail "the hook was quicker than the kill in all but $killed of ten"
echo "killed $killed times of ten"
