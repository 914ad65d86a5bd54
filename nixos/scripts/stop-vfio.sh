# Gives back by hand what a guest has, as libvirtd has it done when the guest is gone.
guest=${1:-$VFIO_GUEST}
if (($# > 1)) || [[ ! $guest =~ ^[A-Za-z0-9_][A-Za-z0-9_.-]*$ ]]; then
	echo "usage: stop-vfio [GUEST]" >&2
	exit 2
fi
if ((EUID != 0)); then
	# By the path that sudo's rule has.
	exec sudo -- "$(readlink -f "$0")" "$guest"
fi
# What is given back goes by what is recorded.
exec qemu-hook release -- "$guest" </dev/null
