# The guest's screen by Looking Glass; arguments go to its client.
state=$(LC_ALL=C virsh --connect qemu:///system domstate "$VFIO_GUEST")
if [[ $state != running ]]; then
	echo "lg: $VFIO_GUEST is $state; start it: vm start $VFIO_GUEST" >&2
	exit 1
fi
if [[ ! -e $VFIO_SHM ]]; then
	echo "lg: $VFIO_SHM is missing; see qemu-hook status, and whether the guest's XML names it" >&2
	exit 1
fi
exec looking-glass-client "app:shmFile=$VFIO_SHM" "input:escapeKey=$VFIO_CAPTURE_KEY" "$@"
