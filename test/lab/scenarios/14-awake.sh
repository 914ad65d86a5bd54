# shows: the host is kept from sleep while a guest with a card runs, and no longer; what runs beside the guest ends with it
define win
start win
unit=qemu-hook-inhibit-$(uuid win).service
until_true 20 systemctl -q is-active "$unit"
until_true 20 bash -c 'systemd-inhibit --list --no-legend | grep qemu-hook'
systemd-inhibit --list --no-legend | grep qemu-hook
scope=$(systemctl list-units --plain --no-legend "machine-qemu*win.scope" | cut -d' ' -f1)
[[ $(systemctl show --property BoundBy "$scope") == *"$unit"* ]] || fail "$unit is not bound to $scope"
is "it looks for late interrupts" "$(systemctl is-active "qemu-hook-attend-$(uuid win).service")" active
stop win
systemd-inhibit --list --no-legend | grep qemu-hook && fail "the host is still kept from sleep"
as_before
# A guest that crashes takes them with it, whatever the hook does.
start win
until_true 20 systemctl -q is-active "$unit"
kill -9 "$(qemu win)"
until_true 30 state_is win "shut off"
until_true 10 bash -c "! systemctl -q is-active $unit"
as_before
