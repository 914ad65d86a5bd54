# shows: a guest with a card (managed='no'), pins, huge pages on node 1 and a shared file gets all of it, and the host all back
define win
start win
prepared win
stop win
as_before
