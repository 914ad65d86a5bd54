# shows: of two guests each has its card, CPUs and pages, and the one that stops first takes nothing from the other
define one
define two pci="02:00.0 02:00.1" vcpus="2 3" emulator=0-1 node=0 shm=two

start one
prepared one
start two
both() {
	is "pages on nodes 0 and 1" "$(pages 0) $(pages 1)" "128 128"
	host_cpus 0-1,6-7
	is "the cards" "$(driver 01:00.0) $(driver 02:00.0)" "vfio-pci vfio-pci"
}
both
stop one
is "pages on nodes 0 and 1" "$(pages 0) $(pages 1)" "128 0"
host_cpus 0-1,4-7
is "the cards" "$(driver 01:00.0) $(driver 02:00.0)" "bochs-drm vfio-pci"
is "the first guest's file" "$(ls /dev/shm)" two

start one
both
stop two
prepared one
stop one
as_before
