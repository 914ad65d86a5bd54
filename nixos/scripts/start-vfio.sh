# Gets the host ready for a guest by hand, as libvirtd has it done when the guest starts.
guest=${1:-$VFIO_GUEST}
if (($# > 1)) || [[ ! $guest =~ ^[A-Za-z0-9_][A-Za-z0-9_.-]*$ ]]; then
	echo "usage: start-vfio [GUEST]" >&2
	exit 2
fi
if ((EUID != 0)); then
	# By the path that sudo's rule has.
	exec sudo -- "$(readlink -f "$0")" "$guest"
fi
# With an XML on standard input anybody could ask for any function: the guest is the one that libvirt has stored.
exec qemu-hook prepare -- "$guest" </dev/null
