# shows: a mistake in the configuration keeps a guest that needs the hook from starting, and no other; a guest that runs is released
define plain pci='' pages=no shm='' vcpus='' node=0
define win
start win
config <<<'hugepages = "many"'
stop win
start plain
stop plain
refused win '/etc/qemu-hook/config.toml:1: hugepages = "many": want a table: [hugepages]'
rm -r /etc/qemu-hook
as_before "$REFUSAL"
start win
prepared win
stop win
as_before
