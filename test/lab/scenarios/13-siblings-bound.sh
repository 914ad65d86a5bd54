# shows: with pci.siblings = "bind" a function of the card that the XML leaves out goes along, and comes back
define win pci="01:00.0"
config <<<'pci.siblings = "bind"'
start win
is "the drivers" "$(driver 01:00.0) $(driver 01:00.1)" "vfio-pci vfio-pci"
stop win
rm -r /etc/qemu-hook
as_before
