# shows: a card whose sound is in use is refused at once: its driver would not let go before the program does
# expect-fail: issue 4: nobody looks yet who has the card's nodes open
node=$(basename "${PCI}01:00.1"/sound/card*)
helper hold "/dev/snd/control${node^c}"
define win
refused win "x"
end_helper "$HELPER"
as_before "$REFUSAL"
start win
prepared win
stop win
as_before
