# shows: a card that a program draws on is refused, and the program goes on
node=$(basename "${PCI}01:00.0"/drm/card*)
helper hold "/dev/dri/$node"
define win
refused win "0000:01:00.0 [1234:1111] (bochs-drm) is in use: labtool (pid $HELPER, lab-agent.service) has /dev/dri/$node open; \
stop it, or list the unit under services.stop"
end_helper "$HELPER"
as_before "$REFUSAL"
start win
prepared win
stop win
as_before
