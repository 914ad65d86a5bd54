# shows: a guest with more memory than there is is refused with a sentence that says so, and starts once it asks for less
define win memory=8192
refused win "x"
explain 'file /run/qemu-hook/refusals.json: .*' "the refusal is kept for qemu-hook status until the next start"
as_before
is "guests" "$(virsh list --all --name | xargs)" win
define win
start win
prepared win
stop win
as_before
