# shows: a unit that uses the card is refused by name; listed under services.stop it is stopped for the guest and runs again afterwards
explain 'unit card-user.service: .*|file /run/systemd/system/card-user.service: .*' "the unit is the scenario's own"
node=$(basename "${PCI}01:00.0"/drm/card*)
cat >/run/systemd/system/card-user.service <<X
[Service]
ExecStart=/usr/bin/labtool hold /dev/dri/$node
X
systemctl daemon-reload
systemctl start card-user
pid=$(systemctl show --value --property MainPID card-user)
until_true 20 test -e "/proc/$pid/fd/3"
define win
refused win "0000:01:00.0 [1234:1111] (bochs-drm) is in use: labtool (pid $pid, card-user.service) has /dev/dri/$node open; \
stop it, or list the unit under services.stop"
is "the unit is" "$(systemctl is-active card-user)" active

config <<<'services.stop = ["card-user.service"]'
start win
prepared win
is "the unit is" "$(systemctl is-active card-user || :)" inactive
stop win
until_true 20 systemctl -q is-active card-user
echo "the unit runs again"
systemctl stop card-user
rm -r /etc/qemu-hook /run/systemd/system/card-user.service
systemctl daemon-reload
as_before
