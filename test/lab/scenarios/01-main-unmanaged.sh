# shows: a guest with a card (managed='no'), pins, huge pages on node 1 and a shared file gets all of it, and the host all back
# As in the first start of all: the hook has the module to load.
modprobe -r vfio-pci
define win
start win
prepared win
stop win
as_before
