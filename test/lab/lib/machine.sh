# shellcheck shell=bash
# The machine: QEMU in plain emulation, with a virtual IOMMU, two nodes of memory and 8 CPUs. It shares two folders with
# this side: this folder, read-only, as /lab, and the run's folder as /run/lab. A file "request" in the latter asks the
# machine to do something, a file "reply" is its exit status.
#
# What stands in for real cards, each behind a root port of its own, so that each slot is an IOMMU group of its own:
#   01:00.0 VGA (bochs-drm)      with 01:00.1 HD audio   the card
#   02:00.0 display (bochs-drm)  with 02:00.1 HD audio   a second card
#   03:00.0 NVMe    04:00.0 e1000e    05:00.0 edu (a function that no driver wants)
#   06:00.0 a bridge to PCI with 07:01.0 e1000 and 07:02.0 edu: a group that two functions share

# new_run NAME makes the folder of a run, and sets RUN to it. The last twelve are kept.
new_run() {
	find "$LAB_DIR/runs" -mindepth 1 -maxdepth 1 -type d | sort -r | tail -n +12 | xargs -r rm -rf --one-file-system
	RUN=$(mktemp -d "$LAB_DIR/runs/$(date +%Y%m%d-%H%M%S)-$1.XXXX")
	mkdir "$RUN/bin"
	chmod 755 "$RUN"
}

# qemu_arguments [keep] sets ARGS; with keep the disk keeps its changes.
qemu_arguments() {
	local half=$((LAB_MEMORY / 2)) disk="file=$IMAGE/root.img,format=raw"
	[[ ${1:-} == keep ]] || disk+=,snapshot=on
	# shellcheck disable=SC2054 # commas are QEMU's
	ARGS=(
		-nodefaults -no-user-config -no-reboot -display none
		-machine q35 -accel tcg,thread=multi,tb-size=1024
		# A vendor whose SMT siblings plain emulation gets right, and 1 GiB pages.
		-cpu 'qemu64,vendor=GenuineIntel,+pdpe1gb' -smp 8,sockets=2,cores=2,threads=2 -m "$LAB_MEMORY"
		-object "memory-backend-ram,id=m0,size=${half}M" -numa node,nodeid=0,cpus=0-3,memdev=m0
		-object "memory-backend-ram,id=m1,size=${half}M" -numa node,nodeid=1,cpus=4-7,memdev=m1
		-numa dist,src=0,dst=1,val=20
		-device intel-iommu,intremap=on,caching-mode=on
		-kernel "$IMAGE/vmlinuz" -initrd "$IMAGE/initrd"
		-drive "if=none,id=root,$disk,cache=unsafe" -device virtio-blk-pci,drive=root,bus=pcie.0,addr=0x2
		-fsdev "local,id=run,path=$RUN,security_model=none" -device virtio-9p-pci,fsdev=run,mount_tag=run,bus=pcie.0,addr=0x3
		-fsdev "local,id=lab,path=$PWD,security_model=none,readonly=on" -device virtio-9p-pci,fsdev=lab,mount_tag=lab,bus=pcie.0,addr=0x4
		-device virtio-rng-pci,bus=pcie.0,addr=0x5
		-audiodev none,id=silence
		-device pcie-root-port,id=port1,chassis=1,bus=pcie.0,addr=0x10
		-device VGA,bus=port1,addr=0x0.0,multifunction=on,vgamem_mb=16
		-device intel-hda,id=hda1,bus=port1,addr=0x0.1 -device hda-output,bus=hda1.0,audiodev=silence
		-device pcie-root-port,id=port2,chassis=2,bus=pcie.0,addr=0x11
		-device bochs-display,bus=port2,addr=0x0.0,multifunction=on
		-device ich9-intel-hda,id=hda2,bus=port2,addr=0x0.1 -device hda-output,bus=hda2.0,audiodev=silence
		-device pcie-root-port,id=port3,chassis=3,bus=pcie.0,addr=0x12
		-blockdev null-co,node-name=nothing,size=67108864,read-zeroes=on -device nvme,serial=lab0,drive=nothing,bus=port3
		-device pcie-root-port,id=port4,chassis=4,bus=pcie.0,addr=0x13 -device e1000e,bus=port4
		-device pcie-root-port,id=port5,chassis=5,bus=pcie.0,addr=0x14 -device edu,bus=port5
		-device pcie-root-port,id=port6,chassis=6,bus=pcie.0,addr=0x15
		-device pcie-pci-bridge,id=bridge6,bus=port6 -device e1000,bus=bridge6,addr=0x1 -device edu,bus=bridge6,addr=0x2
	)
	APPEND="console=ttyS0 root=/dev/vda rw intel_iommu=on iommu=pt mitigations=off nokaslr random.trust_cpu=1 tsc=reliable
		net.ifnames=0 panic=-1 oops=panic quiet loglevel=4 systemd.show_status=0"
	APPEND=${APPEND//[$'\n\t']/ }
}

# boot [keep] starts the machine and waits until it takes requests. A boot in emulation hangs now and then (about one
# in thirty, before anything of ours runs): one that gives no sign is ended and tried again.
boot() {
	local try until
	for try in 1 2 3; do
		rm -f "$RUN"/{alive,ready,request,reply}
		[[ ! -e $RUN/console.log ]] || mv "$RUN/console.log" "$RUN/console.log.$(date +%s)"
		qemu_arguments "${1:-}"
		TMPDIR=$RUN qemu-system-x86_64 "${ARGS[@]}" -serial "file:$RUN/console.log" \
			-append "$APPEND systemd.mask=serial-getty@ttyS0.service" </dev/null >"$RUN/qemu.log" 2>&1 8>&- &
		QEMU=$!
		until=$((SECONDS + LAB_BOOT_SECONDS))
		while ((SECONDS < until)) && kill -0 "$QEMU" 2>/dev/null; do
			[[ ! -e $RUN/ready ]] || return 0
			sleep 0.2
		done
		say "boot $try gave no sign in $LAB_BOOT_SECONDS s"
		end_machine
	done
	tail -n 20 "$RUN/qemu.log" "$RUN"/console.log* >&2
	die "the machine does not boot"
}

# stalled reports whether the machine's kernel has found that a timer of its own never came. Emulation loses one now and
# then, and with it a CPU; so a boot hangs, too.
stalled() { grep -qs "kthread timer wakeup didn't happen" "$RUN/console.log"; }

# crashed reports whether QEMU was ended by a signal: it has a defect of its own, see docs/lab.md. A machine whose kernel panics
# ends it in good order.
crashed() {
	local status=0
	wait "$QEMU" || status=$?
	QEMU=
	((status > 128))
}

# request WORDS SECONDS asks the machine for something and returns its exit status; 124 if there is no answer in
# time, 125 if the machine died, 126 if emulation failed it: it stalled, or QEMU crashed.
request() {
	local until=$((SECONDS + $2))
	rm -f "$RUN/reply"
	echo "$1" >"$RUN/request.new"
	mv "$RUN/request.new" "$RUN/request"
	while [[ ! -s $RUN/reply ]]; do
		if ! kill -0 "$QEMU" 2>/dev/null; then
			! crashed || return 126
			return 125
		fi
		((SECONDS < until)) || return 124
		! stalled || return 126
		sleep 0.1
	done
	return "$(<"$RUN/reply")"
}

# power_off SECONDS waits until the machine, which was told to, is off.
power_off() {
	local until=$((SECONDS + $1))
	while kill -0 "$QEMU" 2>/dev/null; do
		((SECONDS < until)) || return 1
		sleep 0.2
	done
	QEMU=
}

# end_machine ends the machine, if there is one.
end_machine() {
	[[ -n ${QEMU:-} ]] || return 0
	kill -9 "$QEMU" 2>/dev/null || :
	wait "$QEMU" 2>/dev/null || :
	QEMU=
}
