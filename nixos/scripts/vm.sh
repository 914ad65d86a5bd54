# A guest's start, stop, state and serial console.
usage() {
	echo "usage: vm start|stop|status|console [GUEST]" >&2
	exit 2
}

(($# == 1 || $# == 2)) || usage
guest=${2:-$VFIO_GUEST}
[[ $guest =~ ^[A-Za-z0-9_][A-Za-z0-9_.-]*$ ]] || usage
case $1 in
start) command=start ;;
stop) command=shutdown ;; # the hook gives everything back once the guest is really gone
status) command=dominfo ;;
console) command=console ;;
*) usage ;;
esac
exec virsh --connect qemu:///system "$command" "$guest"
