# shows: beside a hook that fails, the user sees that hook's words, ours has prepared and gives everything back
define win
hook 60-fails <<<'[ "$2" != prepare ] || { echo "the other hook says no" >&2; exit 1; }'
log_calls
refused win "the other hook says no"
is "libvirt's calls" "$(calls win)" "prepare begin,stopped end,release end"
rm "$HOOKS/60-fails"
as_before
# Before ours, it is the same: libvirt runs the rest of the hooks all the same.
hook 40-fails <<<'[ "$2" != prepare ] || { echo "the other hook says no" >&2; exit 1; }'
refused win "the other hook says no"
rm "$HOOKS/40-fails"
as_before
start win
prepared win
stop win
as_before
