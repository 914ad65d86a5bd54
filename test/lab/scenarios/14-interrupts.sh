# shows: the host's interrupts leave a guest's CPUs and come back as they were; those that the kernel manages are left, and the guest's own go to its CPUs
nic=$(basename "${PCI}04:00.0"/net/*)
ip link set "$nic" up
irq_of() {
	local handler
	for handler in /proc/irq/*/*"$1"*/; do basename "$(dirname "$handler")" && return; done
}
cpus_of_irq() { cat "/proc/irq/$1/smp_affinity_list"; }
card=$(irq_of "$nic")
disk=$(irq_of -req)
kept=$(cpus_of_irq "$disk")
echo "the network card has interrupt $card, the disk $disk for CPUs $kept"
echo 4-5 >"/proc/irq/$card/smp_affinity_list" # all on CPUs that the guest will have
echo "$kept" >"/proc/irq/$disk/smp_affinity_list" && fail "the disk's interrupt can be moved, so nothing is shown by that it stays"
snapshot >"$OUT/with-nic"

define win
start win
is "the network card's interrupt is on the same node" "$(cpus_of_irq "$card")" 6-7
is "the disk's" "$(cpus_of_irq "$disk")" "$kept"
is "new interrupts get" "$(cat /proc/irq/default_smp_affinity)" cf
on_guest_cpus() {
	local part
	for part in ${1//,/ }; do ((${part%-*} > 5 || ${part#*-} < 4)) || return 0; done
	return 1
}
for handler in /proc/irq/*/*/; do
	file=$(dirname "$handler")/smp_affinity_list
	now=$(cat "$file")
	case $handler in
	*/vfio*) is "the guest's own interrupt, $handler" "$now" 4-5 ;;
	*) ! on_guest_cpus "$now" || ! echo "$now" >"$file" 2>/dev/null || fail "$handler is on CPUs $now, and can be moved" ;;
	esac
done
find /proc/irq -maxdepth 2 -name 'vfio*' | grep . || fail "the guest has no interrupt of its own"
stop win
is "the network card's interrupt" "$(cpus_of_irq "$card")" 4-5
snapshot | grep -v '^file /etc/libvirt/' >"$OUT/now"
labtool compare <(grep -v '^file /etc/libvirt/' "$OUT/with-nic") "$OUT/now" /dev/null || fail "the machine is not as it was"
echo 0-7 >"/proc/irq/$card/smp_affinity_list"
ip link set "$nic" down
as_before
