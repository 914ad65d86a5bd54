# shows: a function whose group holds another one on a host driver is refused with a sentence that names it
define win pci="01:00.0"
refused win "x"
explain 'file /run/qemu-hook/refusals.json: .*' "the refusal is kept for qemu-hook status until the next start"
as_before
is "guests" "$(virsh list --all --name | xargs)" win
define win
start win
prepared win
stop win
as_before
