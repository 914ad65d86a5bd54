# The functions that vfio.devices.addresses lists: where they are, and to vfio and back without a guest.
usage() {
	echo "usage: vfio status|bind|unbind" >&2
	exit 2
}

(($# == 1)) || usage
case $1 in
status | bind | unbind) ;;
*) usage ;;
esac

read -ra functions <<<"$VFIO_ADDRESSES"
if ((${#functions[@]} == 0)); then
	echo "vfio: no functions are configured; set vfio.devices.addresses" >&2
	exit 1
fi
if ((EUID != 0)); then
	# By the path that sudo's rule has.
	exec sudo -- "$(readlink -f "$0")" "$1"
fi

if [[ $1 != status ]]; then
	exec qemu-hook "$1" "${functions[@]}" </dev/null
fi
for function in "${functions[@]}"; do
	lspci -Dnnk -s "$function"
done
exec qemu-hook status </dev/null
