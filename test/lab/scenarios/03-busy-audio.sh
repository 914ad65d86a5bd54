# shows: a card whose sound a program does not let go of is refused in seconds with the program's name, and all is as before once it lets go
# seconds: 240
node=$(basename "${PCI}01:00.1"/sound/card*)
helper hold "/dev/snd/control${node/card/C}"
define win
began=$SECONDS
sentence="0000:01:00.1 is stuck in the kernel: labtool (pid $HELPER, lab-agent.service) has /dev/snd/control${node/card/C} open; close that, and it comes free by itself"
refused win "$sentence"
echo "refused in $((SECONDS - began)) s"
qemu-hook status | grep "^problem: .*close that, and it comes free by itself" || fail "status does not say what to do"
refused win "$sentence"
end_helper "$HELPER"
until_true 60 no_hook
qemu-hook recover
as_before "$REFUSAL"
start win
prepared win
stop win
as_before
