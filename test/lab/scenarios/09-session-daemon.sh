# shows: a user's own libvirtd runs the same hook as that user, and the guest starts; nothing of the host is touched
explain '(unit|run of) polkit.service: .*' "polkit is started when somebody first asks for it"
log_calls
chmod 666 "$OUT/calls"
domain mine pci='' pages=no shm=mine memory=64 >"$OUT/mine.xml"
sed -i '/<cputune>/,/<\/cputune>/d; /<numatune>/d' "$OUT/mine.xml"
as_person() { timeout 100 setpriv --reuid person --regid person --init-groups env HOME=/home/person XDG_RUNTIME_DIR=/run/person "$@"; }
install -d -o person -g person -m 700 /run/person
as_person virsh -q -c qemu:///session define /dev/stdin <"$OUT/mine.xml"
as_person virsh -q -c qemu:///session start mine
is "the guest is" "$(as_person virsh -c qemu:///session domstate mine | xargs)" running
as_person virsh -q -c qemu:///session destroy mine
is "libvirt's calls" "$(calls mine)" "prepare begin,start begin,started begin,stopped end,release end"
as_person virsh -q -c qemu:///session undefine mine
pkill -u person
until_true 30 bash -c '! pgrep -u person'
rm -rf /run/person /home/person/.cache /home/person/.config /dev/shm/mine
