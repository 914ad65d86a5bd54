# shellcheck shell=bash
# The words that scenarios are written in.

PCI=/sys/bus/pci/devices/0000:
GUESTS=()  # those that were defined, for tidy
HELPERS=() # process ids of helpers, for tidy
EXTRA_HOOKS=()
export LEDGER=/run/qemu-hook/ledger.json
HOOKS=/etc/libvirt/hooks/qemu.d

fail() {
	echo "FAILED: $*"
	exit 1
}

# is WHAT GOT WANT compares texts.
is() {
	[[ $2 == "$3" ]] || fail "$1 is \"$2\", want \"$3\""
	echo "$1: $2"
}

# until_true SECONDS COMMAND… tries until the command succeeds.
until_true() {
	local end=$((SECONDS + $1 * 4))
	shift
	until "$@" >/dev/null 2>&1; do
		((SECONDS < end)) || fail "never came true: $*"
		sleep 0.2
	done
}

# explain EXPRESSION WHY… says that a difference that the snapshots will show is as it should be.
explain() {
	echo "$1" >>"$OUT/explained"
	shift
	echo "will differ: $*"
}

# snapshot prints the state once udev has done what the last changes ask of it.
snapshot() {
	udevadm settle --timeout 20 || :
	labtool snapshot
}

# as_before [EXPRESSION…] compares the whole state, but for the guests and hooks that are defined and for what the
# expressions match, with that at the scenario's start.
as_before() {
	snapshot | grep -v '^file /etc/libvirt/' >"$OUT/now"
	labtool compare <(grep -v '^file /etc/libvirt/' "$OUT/before") "$OUT/now" <(cat "$OUT/explained" - <<<"${*:-^}") ||
		fail "the machine is not as it was at the start"
	echo "the machine is as it was at the start"
}

# tree prints everything in /etc and /usr: names, kinds, modes, owners, sizes, links; of /etc and the places of programs the content too.
tree() {
	find /etc /usr -xdev ! -type d -printf '%p %y %m %U:%G %s %l\n'
	find /etc /usr -xdev -type d -printf '%p %y %m %U:%G\n'
	{ find /etc/libvirt /etc/systemd /etc/qemu-hook /usr/bin/qemu-hook -type f 2>/dev/null || :; } | sort | xargs -r sha256sum
}

# A refusal is kept, for qemu-hook status, until the guest starts.
export REFUSAL='file /run/qemu-hook/refusals.json: .*'

# uuid NAME is a guest's UUID: the same whenever it is defined.
uuid() { echo "$1" | md5sum | sed 's/\(.\{8\}\)\(.\{4\}\).\(.\{3\}\).\(.\{3\}\)\(.\{12\}\).*/\1-\2-4\3-a\4-\5/'; }

# domain NAME [KEY=VALUE…] prints a domain. By default it has all that the hook is for:
#   pci="01:00.0 01:00.1"  functions    managed=no   what libvirt does about them
#   vcpus="4 5"            their CPUs ('' for one that is not pinned)   emulator=6-7
#   memory=256             MiB          pages=yes    huge pages of 2 MiB   node=1
#   shm=looking-glass      32 MiB       disk=FILE    to boot from
domain() {
	local name=$1 pci="01:00.0 01:00.1" managed=no vcpus="4 5" emulator=6-7 memory=256 pages=yes node=1 shm=looking-glass disk='' i f
	shift
	(($# == 0)) || local "$@"
	cat <<-X
		<domain type='qemu'>
		  <name>$name</name>
		  <uuid>$(uuid "$name")</uuid>
		  <memory unit='MiB'>$memory</memory>
		  $([[ $pages != yes ]] || echo "<memoryBacking><hugepages><page size='2048' unit='KiB'/></hugepages></memoryBacking>")
		  <vcpu placement='static'>$(wc -w <<<"${vcpus:-1}")</vcpu>
		  $([[ -z $vcpus ]] || echo "<cputune><emulatorpin cpuset='$emulator'/>")
		  $(i=0 && for f in $vcpus; do echo "<vcpupin vcpu='$i' cpuset='$f'/>" && i=$((i + 1)); done)
		  $([[ -z $vcpus ]] || echo "</cputune>")
		  <numatune><memory mode='strict' nodeset='$node'/></numatune>
		  <metadata><lab:note xmlns:lab='https://lab.example/'>$name</lab:note></metadata>
		  <os><type arch='x86_64' machine='q35'>hvm</type></os>
		  <features><acpi/></features>
		  <devices>
		    <emulator>/usr/bin/qemu-system-x86_64</emulator>
		    $(for f in $pci; do echo "<hostdev mode='subsystem' type='pci' managed='$managed'><source><address
		      domain='0' bus='0x${f:0:2}' slot='0x${f:3:2}' function='0x${f:6}'/></source></hostdev>"; done)
		    $([[ -z $shm ]] || echo "<shmem name='$shm'><model type='ivshmem-plain'/><size unit='M'>32</size></shmem>")
		    $([[ -z $disk ]] || echo "<disk type='file' device='disk'><source file='$disk'/><target dev='sda' bus='sata'/></disk>")
		    <video><model type='none'/></video>
		    <memballoon model='none'/>
		  </devices>
		</domain>
	X
}

# define NAME [KEY=VALUE…] makes the domain known to libvirt; tidy forgets it again.
define() {
	GUESTS+=("$1")
	domain "$@" >"$OUT/$1.xml"
	virsh -q define "$OUT/$1.xml"
}

# start NAME [OPTION…] starts a guest.
start() {
	local began=${EPOCHREALTIME/./}
	timeout 100 virsh -q start "$@" || return 1
	echo "$1 started in $(((${EPOCHREALTIME/./} - began) / 1000)) ms"
}

stop() {
	timeout 100 virsh -q destroy "$1"
	# virsh answers while libvirt may still have the hook run.
	until_true 20 state_is "$1" "shut off"
}

state_is() { [[ $(virsh domstate "$1") == "$2"* ]]; }

# refused NAME SENTENCE: the guest does not start, and its user sees the sentence.
refused() {
	local said
	said=$(timeout 100 virsh -q start "$1" 2>&1) && fail "$1 started, and should have been refused"
	refusal_is "$1" "$said" "$2"
}

# refusal_is NAME SAID SENTENCE: of what virsh said of a start, the last line is libvirt's prefix and this; <N> stands for any
# number.
refusal_is() {
	local last want
	echo "virsh says: $2"
	last=$(sed '/^$/d' <<<"$2" | tail -n 1)
	want=$(sed 's/[][\.*^$+?(){}|]/\\&/g; s/<N>/[0-9.]+/g' <<<"$3")
	[[ $last =~ ^(error: .*unexpected exit status 1: )?$want$ ]] || fail "the last line is \"$last\", want \"$3\""
	until_true 20 state_is "$1" "shut off"
	is "libvirt still answers" "$(timeout 20 virsh list --all --name | sort | xargs)" "$(printf '%s\n' "${GUESTS[@]}" | sort -u | xargs)"
}

# driver 01:00.0 prints a function's driver.
driver() { basename "$(readlink "$PCI$1/driver")"; }

# pages NODE [ATTRIBUTE] prints the node's huge pages.
pages() { cat "/sys/devices/system/node/node$1/hugepages/hugepages-2048kB/${2:-nr_hugepages}"; }

# host_cpus WANT: the host's slices and what runs in them keep to these CPUs, and libvirt's own slice does not.
host_cpus() {
	local unit
	for unit in system.slice user.slice init.scope; do
		is "$unit" "$(cpus_of "$unit")" "$1"
	done
	is "libvirtd may use" "$(sed -n 's/^Cpus_allowed_list:\t//p' "/proc/$(pidof libvirtd)/status")" "$1"
	is machine.slice "$(cpus_of machine.slice)" 0-7
}

# cpus_of UNIT prints a unit's CPUs: its own, or those of the nearest that has the controller.
cpus_of() {
	local dir=/sys/fs/cgroup/$1
	[[ -d $dir ]] || dir=/sys/fs/cgroup
	cat "$dir/cpuset.cpus.effective" 2>/dev/null || cat /sys/fs/cgroup/cpuset.cpus.effective
}

# qemu NAME prints the process id of a guest's QEMU.
qemu() { cat "/run/libvirt/qemu/$1.pid"; }

# qemu_has NAME TEXT: QEMU has a file open whose name holds the text.
qemu_has() {
	find "/proc/$(qemu "$1")/fd" -lname "*$2*" | grep -q . || fail "$1's QEMU has no $2 open"
	echo "$1's QEMU has $2"
}

# prepared checks all that the domain as `domain` prints it has while it runs; the guest's name is the argument.
prepared() {
	is 01:00.0 "$(driver 01:00.0)" vfio-pci
	is 01:00.1 "$(driver 01:00.1)" vfio-pci
	qemu_has "$1" "/dev/vfio/$(basename "$(readlink "${PCI}01:00.0/iommu_group")")"
	is "pages on node 1" "$(pages 1)" 128
	is "free pages on node 1" "$(pages 1 free_hugepages)" 0
	is "pages on node 0" "$(pages 0)" 0
	host_cpus 0-3,6-7
	is "/dev/shm/looking-glass" "$(stat -c '%s %U:%G %a' /dev/shm/looking-glass)" "33554432 root:kvm 660"
	qemu_has "$1" /dev/shm/looking-glass
}

# hook NAME installs standard input as a hook beside ours; tidy removes it. Hooks run in the order of their names, ours
# is 50-qemu-hook. busybox's shell is by far the quickest here, but has programs of its own: name others by their path.
hook() {
	{
		echo '#!/bin/busybox sh'
		cat
	} >"$HOOKS/$1"
	chmod 755 "$HOOKS/$1"
	EXTRA_HOOKS+=("$HOOKS/$1")
}

# config makes standard input the program's configuration; tidy removes it.
config() {
	mkdir -p /etc/qemu-hook
	cat >/etc/qemu-hook/config.toml
}

# log_calls has a hook write down libvirt's calls from now on; calls GUEST prints those for a guest on one line.
log_calls() {
	: >"$OUT/calls"
	hook 90-calls <<<"echo \"\$1 \$2 \$3\" >>$OUT/calls"
}

calls() { sed -n "s/^$1 //p" "$OUT/calls" | paste -sd,; }

# killable_hook puts a shell between libvirt and our hook, which notes when it ran and how it ended, and kills it when
# killed_at says so. busybox's clock has hundredths of a second.
killable_hook() {
	mv "$HOOKS/50-qemu-hook" "$OUT/link"
	hook 50-qemu-hook <<-X
		read -r from _ </proc/uptime
		if [ -s /run/kill-\$2 ]; then
			/usr/bin/timeout -s KILL "\$(cat /run/kill-\$2)" /usr/bin/qemu-hook "\$@"
		else
			/usr/bin/qemu-hook "\$@"
		fi
		status=\$?
		read -r to _ </proc/uptime
		echo "\$2 \$from \$to \$status" >>$OUT/times
		exit \$status
	X
}

# killed_at OP MILLISECONDS COMMAND… has our hook killed so long after libvirt called it for the operation, which the command
# makes it do. Was it quicker, it is caught somewhat earlier in the next try.
killed_at() {
	local op=$1 after=$2
	shift 2
	while ((after > 0)); do
		echo "$op is to be killed after $after ms"
		printf '%d.%03d\n' $((after / 1000)) $((after % 1000)) >"/run/kill-$op"
		"$@"
		rm "/run/kill-$op"
		[[ $(last_call "$op") != killed ]] || return 0
		after=$((after * 9 / 10))
	done
	fail "$op is done before it can be killed"
}

# killed_at_ten_moments OP COMMAND… does so at a random moment of each tenth of the time that the operation took last.
killed_at_ten_moments() {
	local op=$1 took i
	shift
	took=$(last_call "$op")
	RANDOM=$EPOCHSECONDS
	for i in {0..9}; do
		# At least one: a limit of zero is none.
		killed_at "$op" $((took * (10 * i + RANDOM % 10) / 100 + 1)) "$@"
	done
	is "moments at which $op was killed" "$(grep -c "^$op .* 137$" "$OUT/times")" 10
}

# last_call OP prints how many milliseconds the last call for the operation took, or "killed".
last_call() { awk -v op="$1" '$1 == op { t = $4 == 137 ? "killed" : int(($3 - $2) * 1000) } END { print t }' "$OUT/times"; }

# process ARGUMENT… waits until pgrep finds what the arguments say, and prints its process id.
process() {
	until_true 30 pgrep "$@"
	pgrep "$@"
}

# running_hook GUEST OP does so for our hook, as libvirt runs it.
running_hook() { process -f "^$HOOKS/50-qemu-hook $1 $2 "; }

no_hook() { ! pidof -q qemu-hook && ! fuser -s /usr/bin/qemu-hook; }

# helper ARGUMENT… runs labtool beside the scenario until its end, or until end_helper; sets HELPER.
helper() {
	labtool "$@" >"$OUT/helper.${#HELPERS[@]}" 2>&1 &
	HELPER=$!
	HELPERS+=("$HELPER")
	until_true 30 grep -q ready "$OUT/helper.$((${#HELPERS[@]} - 1))"
}

# end_helper PID has a helper end, and checks that it ends well.
end_helper() {
	kill "$1"
	wait "$1" || fail "a helper ended badly: $(cat "$OUT"/helper.*)"
}

# tidy ends what a scenario that failed half-way left behind; what the hook did is the hook's to undo.
tidy() {
	local name pid
	set +eE
	for pid in "${HELPERS[@]}"; do kill -9 "$pid" 2>/dev/null && wait "$pid" 2>/dev/null; done
	rm -f "${EXTRA_HOOKS[@]}" /run/kill-*
	rm -rf /etc/qemu-hook
	[[ ! -e $OUT/link && ! -L $OUT/link ]] || mv "$OUT/link" "$HOOKS/50-qemu-hook"
	for name in "${GUESTS[@]}"; do
		timeout 60 virsh -q destroy "$name"
		timeout 60 virsh -q undefine "$name" --managed-save --nvram || timeout 60 virsh -q undefine "$name"
	done >/dev/null 2>&1
	return 0
}
