# shows: a program that uses the card is ended if gpu.terminate lists it, also one that does not listen to SIGTERM
config <<'X'
gpu.terminate = ["labtool"]
gpu.grace = "3s"
X
node=$(basename "${PCI}01:00.0"/drm/card*)
define win
helper hold "/dev/dri/$node"
start win
prepared win
until_true 5 bash -c "! kill -0 $HELPER"
stop win
# One that the signal does not reach.
bash -c "trap '' TERM; exec 3<>/dev/dri/$(basename "${PCI}01:00.0"/drm/card*); echo ready >$OUT/deaf; while :; do sleep 1 3>&-; done" &
deaf=$!
HELPERS+=("$deaf")
until_true 20 test -s "$OUT/deaf"
sed -i 's/labtool/bash/' /etc/qemu-hook/config.toml
start win
prepared win
until_true 5 bash -c "! kill -0 $deaf"
stop win
rm -r /etc/qemu-hook
as_before
