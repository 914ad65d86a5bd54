# shows: a card whose sound is in use is refused at once: its driver would not let go before the program does
# expect-fail: issue 4: nobody looks yet who has the card's nodes open
# seconds: 240
node=$(basename "${PCI}01:00.1"/sound/card*)
helper hold "/dev/snd/control${node/card/C}"
define win
refused win "0000:01:00.1 [8086:2668] (snd_hda_intel) is in use: labtool (pid $HELPER, lab-agent.service) has /dev/snd/control${node/card/C} open; \
stop it, or list the unit under services.stop"
end_helper "$HELPER"
as_before "$REFUSAL"
start win
prepared win
stop win
as_before
