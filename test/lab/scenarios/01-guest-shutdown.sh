# shows: a guest that turns itself off gives everything back

# A boot sector in place of a system: it writes "off" to the power register of QEMU's q35.
printf '\xba\x04\x06\xb8\x00\x20\xef\xf4\xeb\xfd' >/var/tmp/off.img
truncate -s 510 /var/tmp/off.img
printf '\x55\xaa' >>/var/tmp/off.img
truncate -s 1M /var/tmp/off.img

define win disk=/var/tmp/off.img
start win --paused
prepared win
virsh -q resume win
until_true 60 state_is win "shut off"
is "why it is off" "$(virsh domstate --reason win)" "shut off (shutdown)"
rm /var/tmp/off.img
as_before
