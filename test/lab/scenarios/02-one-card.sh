# shows: a guest that asks for what another one has is refused, and takes nothing from it
define win
define thief vcpus="2 3" emulator=0-1 node=0 shm=''
start win
refused thief "2 reasons, the first: 0000:01:00.0 [1234:1111] is taken by guest win; stop that guest first"
prepared win
stop win
explain 'file /run/qemu-hook/refusals.json: .*' "the refusal is kept for qemu-hook status"
as_before
