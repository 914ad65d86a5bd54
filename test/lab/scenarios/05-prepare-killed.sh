# shows: the hook is killed at ten random moments of prepare: the guest does not start, and nothing is left
# seconds: 600
killable_hook
define win
again() {
	if start win; then
		prepared win
		stop win
	fi
	until_true 60 no_hook
	as_before
}
# The first has vfio-pci to load, so the second's time counts.
again
again
killed_at_ten_moments prepare again
again
