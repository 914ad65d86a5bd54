# shows: bind and unbind move a card without a guest; a guest may use it meanwhile and leaves it where it is; holders and groups tell
explain 'file /run/qemu-hook/.*' "compared below"
qemu-hook groups | grep -A2 '^group 12$' | grep -q '0000:01:00.1 .*snd_hda_intel' || fail "groups does not show the card's group"
node=$(basename "${PCI}01:00.0"/drm/card*)
helper hold "/dev/dri/$node"
qemu-hook holders 0000:01:00.0 0000:01:00.1 | tee "$OUT/holders"
grep -q "labtool (pid $HELPER, lab-agent.service) has /dev/dri/$node open: in the way" "$OUT/holders" || fail "holders does not name the program"
setpriv --reuid person --regid person --clear-groups qemu-hook holders 0000:01:00.0 | grep "not seen" || fail "a user was told more than is seen"
qemu-hook bind 0000:01:00.0 0000:01:00.1 && fail "a card in use was bound"
end_helper "$HELPER"
qemu-hook bind 0000:01:00.0 0000:01:00.1
is "the drivers" "$(driver 01:00.0) $(driver 01:00.1)" "vfio-pci vfio-pci"
define win
start win
prepared win
qemu-hook unbind 0000:01:00.0 0000:01:00.1 && fail "a running guest's card was unbound"
stop win
is "the drivers" "$(driver 01:00.0) $(driver 01:00.1)" "vfio-pci vfio-pci"
qemu-hook recover
is "the drivers" "$(driver 01:00.0) $(driver 01:00.1)" "vfio-pci vfio-pci"
qemu-hook unbind 0000:01:00.0 0000:01:00.1
: >"$OUT/explained"
as_before "$REFUSAL"
rm -f /run/qemu-hook/refusals.json
as_before
