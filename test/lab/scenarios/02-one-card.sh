# shows: a guest that asks for what another one has is refused, and takes nothing from it
define win
define thief vcpus="2 3" emulator=0-1 node=0 shm=''
start win
refused thief "0000:01:00.0 [1234:1111] (vfio-pci), 0000:01:00.1 [8086:2668] (vfio-pci) are taken by guest win; stop that guest, or if it runs no longer: \
qemu-hook recover \"win\""
prepared win
stop win
start thief
stop thief
as_before
