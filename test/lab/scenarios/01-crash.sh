# shows: a guest whose QEMU is killed gives everything back
define win
start win
prepared win
kill -9 "$(qemu win)"
until_true 30 state_is win "shut off"
is "why it is off" "$(virsh domstate --reason win)" "shut off (crashed)"
as_before
