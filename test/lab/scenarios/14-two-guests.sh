# shows: of two guests each has its CPUs free of interrupts and of the kernel's work, in whichever order they stop
define one
define two pci="02:00.0 02:00.1" vcpus="2 3" emulator=0-1 node=0 shm=two
masks() { is "$1" "$(cat /proc/irq/default_smp_affinity) $(cat /sys/devices/virtual/workqueue/cpumask) $(cat /proc/sys/kernel/watchdog_cpumask)" "$2"; }
for last in one two; do
	start one
	masks "with one" "cf cf 0-3,6-7"
	start two
	masks "with both" "c3 c3 0-1,6-7"
	if [[ $last == one ]]; then
		stop two
		masks "with one again" "cf cf 0-3,6-7"
	else
		stop one
		masks "with two" "f3 f3 0-1,4-7"
	fi
	stop "$last"
	masks "with none" "ff ff 0-7"
	host_cpus 0-7
done
as_before
