package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"qemu-hook/hook"
	"qemu-hook/test/mode"
)

// What shells complete, and the man page's lists, come from the table of commands and the list of keys. After a change of
// those: go test ./cmd/qemu-hook -run TestDocs -update
var update = flag.Bool("update", false, "write the completions and the man page anew")

const manPage = "../../docs/qemu-hook.8"

// TestDocs compares the files with what the program's tables say.
func TestDocs(t *testing.T) {
	page := readText(t, manPage)
	page = between(t, page, ".\\\" commands, by go test -update", ".\\\" end of commands", manCommands())
	page = between(t, page, ".\\\" keys, by go test -update", ".\\\" end of keys", manKeys())
	for file, want := range map[string]string{
		"../../dist/completions/qemu-hook.bash": bashCompletion(),
		"../../dist/completions/_qemu-hook":     zshCompletion(),
		"../../dist/completions/qemu-hook.fish": fishCompletion(),
		manPage:                                 page,
	} {
		if *update {
			if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if readText(t, file) != want {
			t.Errorf("%s is not what the program's tables say; go test ./cmd/qemu-hook -run TestDocs -update", file)
		}
	}
}

func readText(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil && !*update {
		t.Fatal(err)
	}
	return string(b)
}

// between replaces what stands between two lines.
func between(t *testing.T, text, begin, end, with string) string {
	t.Helper()
	head, rest, ok1 := strings.Cut(text, begin+"\n")
	_, tail, ok2 := strings.Cut(rest, end+"\n")
	if !ok1 || !ok2 {
		t.Fatalf("the man page has no lines %q and %q", begin, end)
	}
	return head + begin + "\n" + with + end + "\n" + tail
}

// commandFlags returns what a command takes: names with two dashes, and whether a value follows.
func commandFlags(c command) (flags []string, takes map[string]string) {
	takes = map[string]string{}
	c.flagSet(&options{}).VisitAll(func(f *flag.Flag) {
		flags = append(flags, f.Name)
		takes[f.Name] = f.Usage
	})
	return flags, takes
}

// manText renders plain text for a man page: a sentence begins a line, as mandoc wants it.
func manText(s string) string {
	s = strings.NewReplacer(`\`, `\e`, "…", "...", ". ", ".\n", "&lt;", "<", "&gt;", ">").Replace(s)
	const width = 78
	var lines []string
	for sentence := range strings.SplitSeq(s, "\n") {
		line := ""
		for word := range strings.FieldsSeq(sentence) {
			if line != "" && len(line)+1+len(word) > width {
				lines, line = append(lines, line), ""
			}
			if line == "" && strings.ContainsAny(word[:1], ".'") {
				word = `\&` + word
			}
			line = strings.TrimPrefix(line+" "+word, " ")
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "\n")
}

// manWord renders a word of a macro's arguments.
func manWord(s string) string { return strings.NewReplacer(`\`, `\e`, "…", " ...").Replace(s) }

func manCommands() string {
	var b strings.Builder
	for _, c := range commands() {
		line := ".It Cm " + c.name
		for _, word := range strings.Fields(c.args) {
			inner := strings.Trim(word, "[]")
			kind := "Ar"
			if inner == strings.ToLower(inner) {
				kind = "Cm" // such as "begin", which is written as it stands
			}
			if inner != word {
				line += " Oo " + kind + " " + manWord(inner) + " Oc"
			} else {
				line += " " + kind + " " + manWord(inner)
			}
		}
		flags, takes := commandFlags(c)
		for _, f := range flags {
			if f == "root" {
				continue // for all
			}
			line += " Oo Fl -" + f
			if takes[f] != "" {
				line += " Ar " + takes[f]
			}
			line += " Oc"
		}
		summary, rest, _ := strings.Cut(c.text, "\n")
		fmt.Fprintf(&b, "%s\n%s.\n", line, manText(strings.ToUpper(summary[:1])+summary[1:]))
		if rest != "" {
			fmt.Fprintf(&b, "%s\n", manText(strings.ReplaceAll(rest, "\n", " ")))
		}
	}
	return b.String()
}

func manKeys() string {
	var b strings.Builder
	for _, k := range hook.ConfigKeys() {
		fmt.Fprintf(&b, ".It Cm %s\n%s.\n", manWord(k.Key), manText(strings.ToUpper(k.Doc[:1])+k.Doc[1:]))
		if k.Default != "" {
			fmt.Fprintf(&b, "The default is\n.Ql %s .\n", strings.ReplaceAll(manWord(k.Default), `"`, `\(dq`))
		}
	}
	return b.String()
}

// takesName, takesAddress and takesCommand say what may follow a command.
func takesName(c command) bool    { return strings.Contains(c.args, "NAME") }
func takesAddress(c command) bool { return strings.Contains(c.args, "ADDRESS") }
func takesCommand(c command) bool { return strings.Contains(c.args, "COMMAND") }

func namesOf(f func(command) bool) []string {
	var names []string
	for _, c := range commands() {
		if f(c) {
			names = append(names, c.name)
		}
	}
	return names
}

func dashed(flags []string) string {
	var all []string
	for _, f := range flags {
		all = append(all, "--"+f)
	}
	return strings.Join(all, " ")
}

func bashCompletion() string {
	var flags strings.Builder
	for _, c := range commands() {
		names, _ := commandFlags(c)
		fmt.Fprintf(&flags, "\t%s) flags='%s' ;;\n", c.name, dashed(names))
	}
	return `# bash completion for qemu-hook. Made by: go test ./cmd/qemu-hook -run TestDocs -update

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
` + flags.String() + `	esac
	if [[ -z $command ]]; then
		words=(` + strings.Join(commandNames(), " ") + ` --root)
	elif [[ $cur == -* ]]; then
		read -ra words <<<"$flags"
	else
		case $command in
		` + strings.Join(namesOf(takesName), " | ") + `) mapfile -t words < <(_qemu_hook_names) ;;
		` + strings.Join(namesOf(takesAddress), " | ") + `) mapfile -t words < <(_qemu_hook_addresses) ;;
		` + strings.Join(namesOf(takesCommand), " | ") + `) words=(` + strings.Join(commandNames(), " ") + `) ;;
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
`
}

func zshCompletion() string {
	var list, flags strings.Builder
	quote := strings.NewReplacer("'", `'\''`, ":", `\:`)
	for _, c := range commands() {
		fmt.Fprintf(&list, "\t\t'%s:%s'\n", c.name, quote.Replace(c.summary()))
		fmt.Fprintf(&flags, "\t%s)\n\t\t_arguments", c.name)
		names, takes := commandFlags(c)
		for _, f := range names {
			switch takes[f] {
			case "":
				fmt.Fprintf(&flags, " '--%s'", f)
			case "DIR":
				fmt.Fprintf(&flags, " '--%s[a root directory]:directory:_files -/'", f)
			default:
				fmt.Fprintf(&flags, " '--%s[a file]:file:_files'", f)
			}
		}
		switch {
		case takesName(c):
			flags.WriteString(" '1:guest:_qemu_hook_names'")
		case takesAddress(c):
			flags.WriteString(" '*:address:_qemu_hook_addresses'")
		case takesCommand(c):
			flags.WriteString(" '1:command:_qemu_hook_commands'")
		}
		flags.WriteString("\n\t\t;;\n")
	}
	return `#compdef qemu-hook
# zsh completion for qemu-hook. Made by: go test ./cmd/qemu-hook -run TestDocs -update

_qemu_hook_commands() {
	local -a all
	all=(
` + list.String() + `	)
	_describe command all
}

_qemu_hook_names() {
	local -a all
	all=(/etc/libvirt/qemu/*.xml(N:t:r) /var/lib/libvirt/qemu/*.xml(N:t:r))
	compadd -a all
}

_qemu_hook_addresses() {
	local -a all
	all=(/sys/bus/pci/devices/*(N:t))
	compadd -a all
}

_qemu_hook() {
	local line state
	_arguments -C '--root[a root directory]:directory:_files -/' '1:command:_qemu_hook_commands' '*::argument:->argument'
	[[ $state == argument ]] || return
	case $line[1] in
` + flags.String() + `	esac
}

_qemu_hook "$@"
`
}

func fishCompletion() string {
	var b strings.Builder
	b.WriteString(`# fish completion for qemu-hook. Made by: go test ./cmd/qemu-hook -run TestDocs -update

function __qemu_hook_names
    for file in /etc/libvirt/qemu/*.xml /var/lib/libvirt/qemu/*.xml
        string replace -r '.*/(.*)\.xml$' '$1' -- $file
    end
end

function __qemu_hook_addresses
    for dir in /sys/bus/pci/devices/*
        string replace -r '.*/' '' -- $dir
    end
end

complete -c qemu-hook -f
complete -c qemu-hook -l root -x -a '(__fish_complete_directories)' -d 'a root directory'
`)
	quote := strings.NewReplacer(`\`, `\\`, "'", `\'`)
	for _, c := range commands() {
		fmt.Fprintf(&b, "complete -c qemu-hook -n __fish_use_subcommand -a %s -d '%s'\n", c.name, quote.Replace(c.summary()))
		seen := "-n '__fish_seen_subcommand_from " + c.name + "'"
		names, takes := commandFlags(c)
		for _, f := range names {
			switch {
			case f == "root":
			case takes[f] == "":
				fmt.Fprintf(&b, "complete -c qemu-hook %s -l %s\n", seen, f)
			default:
				fmt.Fprintf(&b, "complete -c qemu-hook %s -l %s -r -F\n", seen, f)
			}
		}
		switch {
		case takesName(c):
			fmt.Fprintf(&b, "complete -c qemu-hook %s -a '(__qemu_hook_names)'\n", seen)
		case takesAddress(c):
			fmt.Fprintf(&b, "complete -c qemu-hook %s -a '(__qemu_hook_addresses)'\n", seen)
		case takesCommand(c):
			fmt.Fprintf(&b, "complete -c qemu-hook %s -a '%s'\n", seen, strings.Join(commandNames(), " "))
		}
	}
	return b.String()
}

// TestUsageFlags looks for each command's flags in the help of all.
func TestUsageFlags(t *testing.T) {
	n := 0
	for _, c := range commands() {
		names, takes := commandFlags(c)
		for _, f := range names {
			n++
			if !strings.Contains(usage(), "\n  "+strings.TrimSpace("--"+f+" "+takes[f])+" ") {
				t.Errorf("the help does not say what --%s is, which %s takes", f, c.name)
			}
		}
	}
	t.Logf("%d flags", n)
}

// tool returns a program that a test needs.
func tool(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		mode.Lacking(t, "%s is missing: %v", name, err)
	}
	return path
}

// TestManPage has mandoc judge the man page.
func TestManPage(t *testing.T) {
	out, _ := exec.Command(tool(t, "mandoc"), "-Tlint", manPage).CombinedOutput()
	for line := range strings.Lines(string(out)) {
		// Which other pages there are is the machine's affair.
		if !strings.Contains(line, "referenced manual not found") && !strings.Contains(line, "outdated mandoc.db") &&
			!strings.Contains(line, "missing mandoc.db") {
			t.Errorf("mandoc -Tlint: %s", line)
		}
	}
}

// TestCompletionSyntax has each shell read its completions.
func TestCompletionSyntax(t *testing.T) {
	for shell, file := range map[string]string{"bash": "qemu-hook.bash", "zsh": "_qemu-hook", "fish": "qemu-hook.fish"} {
		t.Run(shell, func(t *testing.T) {
			out, err := exec.Command(tool(t, shell), "-n", filepath.Join("../../dist/completions", file)).CombinedOutput()
			if err != nil || len(out) > 0 {
				t.Errorf("%s -n: %v\n%s", shell, err, out)
			}
		})
	}
}

// TestBashCompletion completes as a person at a terminal does.
func TestBashCompletion(t *testing.T) {
	bash := tool(t, "bash")
	script, err := filepath.Abs("../../dist/completions/qemu-hook.bash")
	if err != nil {
		t.Fatal(err)
	}
	complete := func(words ...string) []string {
		t.Helper()
		const ask = `source "$0"; _qemu_hook_names() { printf '%s\n' win11 'Windows 11' linux; }
_qemu_hook_addresses() { printf '%s\n' 0000:08:00.0 0000:08:00.1; }
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)); _qemu_hook qemu-hook "${!#}" ''; printf '%s\n' "${COMPREPLY[@]}"`
		cmd := exec.Command(bash, append([]string{"--norc", "-c", ask, script}, words...)...)
		cmd.Dir = t.TempDir()
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return strings.Fields(strings.ReplaceAll(string(out), `\ `, "_"))
	}
	n := 0
	for _, c := range []struct {
		words string
		want  []string
	}{
		{"qemu-hook st", []string{"start", "started", "stopped", "status"}},
		{"qemu-hook --root /x st", []string{"start", "started", "stopped", "status"}},
		{"qemu-hook plan ", []string{"win11", "Windows_11", "linux"}},
		{"qemu-hook plan --xml x w", []string{"win11"}},
		{"qemu-hook plan --j", []string{"--json"}},
		{"qemu-hook install --", []string{"--dry-run", "--replace", "--root"}},
		{"qemu-hook plan --", []string{"--config", "--json", "--root", "--xml"}},
		{"qemu-hook needs --", []string{"--json", "--root", "--xml"}},
		{"qemu-hook topology --", []string{"--json", "--root", "--svg"}},
		{"qemu-hook status --", []string{"--json", "--root"}},
		{"qemu-hook recover --", []string{"--config", "--root"}},
		{"qemu-hook snapshot --", []string{"--config", "--root"}},
		{"qemu-hook bind 0000:08:00.0 ", []string{"0000:08:00.0", "0000:08:00.1"}},
		{"qemu-hook help un", []string{"unbind", "uninstall"}},
		{"qemu-hook status ", nil},
		{"qemu-hook ", append(commandNames(), "--root")},
	} {
		n++
		if got := complete(strings.Split(c.words, " ")...); !slices.Equal(got, c.want) {
			t.Errorf("%q is completed to %q, want %q", c.words, got, c.want)
		}
	}
	t.Logf("%d completions", n)
}
