# shows: the hook is killed at ten random moments of release: the next start and stop leave nothing of it
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
	start win
	kill_hook release "$after"
	stop win
	keep_hook
	until_true 60 no_hook
	start win
	prepared win
	stop win
	as_before
done
