# bash completion for qemu-hook. Made by: go test ./cmd/qemu-hook -run TestDocs -update

# What libvirt has stored, and what is in sysfs; nobody is asked.
_qemu_hook_names() {
	local file
	for file in /etc/libvirt/qemu/*.xml /var/lib/libvirt/qemu/*.xml; do
		[[ -e $file ]] || continue
		file=${file##*/}
		printf '%s\n' "${file%.xml}"
	done
}

_qemu_hook_addresses() {
	local dir
	for dir in /sys/bus/pci/devices/*; do
		[[ -e $dir ]] && printf '%s\n' "${dir##*/}"
	done
}

_qemu_hook() {
	local cur=$2 command='' flags='' word i
	local -a words=()
	# An address has colons, at which readline breaks words.
	if declare -F _get_comp_words_by_ref >/dev/null; then
		_get_comp_words_by_ref -n : cur
	fi
	for ((i = 1; i < COMP_CWORD; i++)); do
		word=${COMP_WORDS[i]}
		case $word in
		--root | --config | --xml) ((i++)) ;;
		-*) ;;
		*)
			command=$word
			break
			;;
		esac
	done
	case ${COMP_WORDS[COMP_CWORD - 1]} in
	--root)
		mapfile -t COMPREPLY < <(compgen -d -- "$cur")
		return
		;;
	--config | --xml)
		mapfile -t COMPREPLY < <(compgen -f -- "$cur")
		return
		;;
	esac
	case $command in
	prepare) flags='--config --root --xml' ;;
	release) flags='--config --root --xml' ;;
	start) flags='--config --root --xml' ;;
	started) flags='--config --root --xml' ;;
	stopped) flags='--config --root --xml' ;;
	reconnect) flags='--config --root --xml' ;;
	plan) flags='--config --json --root --xml' ;;
	needs) flags='--json --root --xml' ;;
	check) flags='--config --config-only --root --xml' ;;
	status) flags='--json --root' ;;
	log) flags='--all --follow --json --root' ;;
	recover) flags='--config --root' ;;
	holders) flags='--json --root' ;;
	groups) flags='--json --root' ;;
	topology) flags='--json --root --svg' ;;
	suggest) flags='--config --root --xml' ;;
	snapshot) flags='--config --root' ;;
	bind) flags='--config --root' ;;
	unbind) flags='--config --root' ;;
	import) flags='--root' ;;
	install) flags='--dry-run --replace --root' ;;
	uninstall) flags='--dry-run --root' ;;
	demo) flags='--root' ;;
	version) flags='--root' ;;
	help) flags='--root' ;;
	esac
	if [[ -z $command ]]; then
		words=(prepare release start started stopped reconnect plan needs check status log recover holders groups topology suggest snapshot bind unbind import install uninstall demo version help --root)
	elif [[ $cur == -* ]]; then
		read -ra words <<<"$flags"
	else
		case $command in
		prepare | release | start | started | stopped | reconnect | plan | needs | check | log | recover | suggest) mapfile -t words < <(_qemu_hook_names) ;;
		holders | bind | unbind) mapfile -t words < <(_qemu_hook_addresses) ;;
		help) words=(prepare release start started stopped reconnect plan needs check status log recover holders groups topology suggest snapshot bind unbind import install uninstall demo version help) ;;
		esac
	fi
	COMPREPLY=()
	for word in "${words[@]}"; do
		# A name may have blanks.
		[[ $word == "$cur"* ]] && COMPREPLY+=("$(printf '%q' "$word")")
	done
	if declare -F __ltrim_colon_completions >/dev/null; then
		__ltrim_colon_completions "$cur"
	fi
}

complete -F _qemu_hook qemu-hook
