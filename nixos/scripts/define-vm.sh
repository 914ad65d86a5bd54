# Gives libvirt the definition of $GUEST that is in $XML, if it has not got it. Run by the unit define-NAME-vm.
set -euo pipefail

virsh() { command virsh --quiet --connect qemu:///system "$@"; }

# libvirtd leaves when it has had nothing to do for a while, and comes back by its socket.
tries=30
until virsh uri; do
	if ((--tries == 0)); then
		echo "libvirtd does not answer" >&2
		exit 1
	fi
	sleep 1
done

stamp=$STATE_DIRECTORY/$GUEST.stamp
definition=$STATE_DIRECTORY/$GUEST.xml
want="$(sha256sum <"$XML") $AUTOSTART"
uuid=$(virsh domuuid "$GUEST" 2>/dev/null || true)
if [[ -n $uuid && -e $stamp && $(<"$stamp") == "$want" ]]; then
	echo "$GUEST is as it was defined last"
	exit 0
fi

# The unit's name decides about the guest's. A guest that is there stays the same guest, with its firmware's variables:
# libvirt takes a definition without the uuid, or with another one, for a second guest of that name.
edit=(-d /domain/name -s /domain -t elem -n name -v "$GUEST")
if [[ -n $uuid ]]; then
	edit+=(-d /domain/uuid -s /domain -t elem -n uuid -v "$uuid")
	nvram=$(virsh dumpxml --inactive "$GUEST" | xmlstarlet sel -t -v /domain/os/nvram || true)
	if [[ -n $nvram && -z $(xmlstarlet sel -t -v /domain/os/nvram "$XML" || true) ]]; then
		edit+=(-s /domain/os -t elem -n nvram -v "$nvram")
	fi
fi
xmlstarlet ed "${edit[@]}" "$XML" >"$definition"
virsh define "$definition"
if [[ $AUTOSTART == yes ]]; then
	virsh autostart "$GUEST"
else
	virsh autostart --disable "$GUEST"
fi
echo "$want" >"$stamp"
