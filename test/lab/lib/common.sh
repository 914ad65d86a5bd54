# shellcheck shell=bash
# What all parts of the lab on this side share: settings and words.

# Settings, all from the environment and all optional.
LAB_DIR=${LAB_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/qemu-hook-lab} # images and logs
LAB_MEMORY=${LAB_MEMORY:-6144}                                    # MiB, half of it on each node
LAB_BOOT_SECONDS=${LAB_BOOT_SECONDS:-240}                         # until a boot counts as hung
LAB_TIMES=${LAB_TIMES:-1}                                         # by how much the scenarios' time limits grow, for a busy computer
LAB_SUITE=${LAB_SUITE:-bookworm}                                  # the Debian in the machine

say() { printf 'lab: %s\n' "$*" >&2; }

die() {
	say "$*"
	exit 1
}

# one_lab keeps a second lab from starting beside this one, and has all that this one starts end with it.
one_lab() {
	((EUID == 0)) || die "building the machine takes root"
	mkdir -p "$LAB_DIR/runs"
	exec 8>"$LAB_DIR/lock"
	flock -n 8 || die "another lab runs already (it holds $LAB_DIR/lock)"
	trap leave EXIT
	trap 'exit 130' INT TERM HUP
}

# leave ends what still runs and removes what is half made, however this script ends.
leave() {
	if [[ -n ${CHILD:-} ]]; then
		kill "$CHILD" 2>/dev/null || :
		wait "$CHILD" || :
	fi
	end_machine
	[[ -z ${WORK:-} ]] || rm -rf --one-file-system "$WORK"
}

# limited SECONDS COMMAND… runs a command, and ends it after so long with all that it started. The wait is one that a signal to this
# script interrupts; a command that is simply run would be waited for first.
limited() {
	local status=0
	timeout -k 10 "$@" <&0 8>&- &
	CHILD=$!
	wait "$CHILD" || status=$?
	CHILD=''
	return "$status"
}

# program FOLDER NAME builds one for the machine.
program() { CGO_ENABLED=0 limited 600 go build -trimpath -o "$RUN/bin/$2" "$1"; }

# packages PROGRAM:PACKAGE… installs what is missing.
packages() {
	local need missing=()
	for need; do
		command -v "${need%%:*}" >/dev/null || missing+=("${need#*:}")
	done
	((${#missing[@]} > 0)) || return 0
	say "installing ${missing[*]}"
	export DEBIAN_FRONTEND=noninteractive
	limited 300 apt-get update -qq </dev/null
	limited 900 apt-get install -y -qq --no-install-recommends "${missing[@]}" </dev/null >/dev/null
}
