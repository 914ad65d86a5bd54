# shows: a card that a program draws on is refused, and the program goes on
# expect-fail: issue 4: nobody looks yet who has the card's nodes open
node=$(basename "${PCI}01:00.0"/drm/card*)
helper hold "/dev/dri/$node"
define win
refused win "x"
end_helper "$HELPER"
as_before "$REFUSAL"
start win
prepared win
stop win
as_before
