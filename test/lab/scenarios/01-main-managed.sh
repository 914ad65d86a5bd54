# shows: the same with managed='yes', where libvirt wants to bind the card itself
define win managed=yes
start win
prepared win
stop win
as_before
