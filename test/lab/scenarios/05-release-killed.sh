# shows: the hook is killed at ten random moments of release: the guest starts again each time, and in the end nothing is left
# seconds: 600
killable_hook
define win
again() {
	start win
	prepared win
	stop win
	until_true 60 no_hook
}
again
killed_at_ten_moments release again
again
as_before
