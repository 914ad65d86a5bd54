package scripts

import (
	"path"
	"slices"
	"strings"
)

// An act is one thing that a command does, in a form that does not depend on how it is written: "write PATH VALUE",
// "systemctl stop UNIT", "modprobe -r MODULE".
type act []arg

func (a act) String() string { return asText(a) }

// word returns the n-th word, and whether it is just that text.
func (a act) word(n int) (string, bool) {
	if n >= len(a) {
		return "", false
	}
	return a[n].text, a[n].known() && !strings.Contains(a[n].text, "$")
}

// like reports whether the act is one of a pattern's: words with * for any text and | between texts; "…" for any more words.
func (a act) like(pattern string) bool {
	fields := strings.Fields(pattern)
	for i, f := range fields {
		if f == "…" {
			return true
		}
		if i >= len(a) {
			return false
		}
		one := func(p string) bool { return match(p, a[i].text) }
		if !slices.ContainsFunc(strings.Split(f, "|"), one) {
			return false
		}
	}
	return len(fields) == len(a)
}

// match compares a text with a pattern in which * stands for any text.
func match(pattern, text string) bool {
	parts := strings.Split(pattern, "*")
	if len(parts) == 1 {
		return pattern == text
	}
	text, ok := strings.CutPrefix(text, parts[0])
	if !ok {
		return false
	}
	for _, p := range parts[1 : len(parts)-1] {
		i := strings.Index(text, p)
		if i < 0 {
			return false
		}
		text = text[i+len(p):]
	}
	return strings.HasSuffix(text, parts[len(parts)-1])
}

func plain(words ...string) []arg {
	var all []arg
	for _, w := range words {
		all = append(all, arg{text: w})
	}
	return all
}

// unwrap takes from a command what only says how it is run.
func unwrap(args []arg) []arg {
	for len(args) > 1 {
		rest := args[1:]
		skip := func(valued string) {
			for len(rest) > 0 && strings.HasPrefix(rest[0].text, "-") {
				flag := rest[0].text
				if rest = rest[1:]; len(flag) == 2 && strings.Contains(valued, flag[1:]) && len(rest) > 0 {
					rest = rest[1:]
				}
			}
		}
		if args[0].text == "command" && (rest[0].text == "-v" || rest[0].text == "-V") {
			return args // only asks
		}
		switch path.Base(args[0].text) {
		case "sudo":
			skip("ugpC")
		case "doas":
			skip("uC")
		case "timeout":
			if skip("sk"); len(rest) > 0 {
				rest = rest[1:]
			}
		case "nice", "ionice", "chrt":
			skip("ncp")
		case "xargs":
			skip("InPLdEs")
		case "setsid", "nohup", "time", "command", "builtin", "exec", "stdbuf":
			skip("oei")
		default:
			return args
		}
		if len(rest) == 0 {
			return args
		}
		args = rest
	}
	return args
}

// runsAs returns the user whom a command is run as, if it says one other than root.
func runsAs(args []arg) string {
	wrapped := len(args) - len(unwrap(args))
	for i := 0; i < len(args) && i <= wrapped; i++ {
		valued := map[string]string{"sudo": "gpCDRT", "doas": "C", "runuser": "cgGsTw", "su": "cgGsTw"}
		name := path.Base(args[i].text)
		flags, is := valued[name]
		if !is {
			continue
		}
		user := ""
		for rest := args[i+1:]; len(rest) > 0 && user == ""; rest = rest[1:] {
			text := rest[0].text
			long, value, _ := strings.Cut(text, "=")
			switch {
			case name != "su" && (long == "-u" || long == "--user") && value == "" && len(rest) > 1:
				user = rest[1].text
			case name != "su" && long == "--user":
				user = value
			case name != "su" && strings.HasPrefix(text, "-u"):
				user = text[2:]
			case len(text) == 2 && text[0] == '-' && strings.Contains(flags, text[1:]) && len(rest) > 1:
				rest = rest[1:]
			case strings.HasPrefix(text, "-"):
			case name == "su" || name == "runuser":
				user = text
			default:
				rest = rest[:1] // the command
			}
		}
		if user != "" && user != "root" && user != "#0" {
			return user
		}
	}
	return ""
}

// actsOf returns what a command does in a form that does not depend on how it is written.
func actsOf(args []arg) []act {
	name := path.Base(args[0].text)
	rest := args[1:]
	words := slices.DeleteFunc(slices.Clone(rest), func(a arg) bool { return strings.HasPrefix(a.text, "-") })
	has := func(flags ...string) bool {
		return slices.ContainsFunc(rest, func(a arg) bool { return slices.Contains(flags, a.text) })
	}
	each := func(first []arg, items []arg) (all []act) {
		for _, item := range items {
			all = append(all, append(slices.Clone(first), item))
		}
		return all
	}
	switch name {
	case "systemctl":
		if has("--user") || len(words) < 2 {
			break
		}
		if words[0].text == "set-property" {
			return []act{append(plain("systemctl"), words...)}
		}
		return each(plain("systemctl", words[0].text), words[1:])
	case "service", "rc-service":
		if len(words) == 2 {
			return []act{append(plain("systemctl", words[1].text), words[0])}
		}
	case "sysctl":
		var all []act
		for _, w := range words {
			key, value, ok := strings.Cut(w.text, "=")
			if !ok {
				return []act{args}
			}
			key, value = strings.TrimSpace(key), strings.TrimSpace(value)
			if i := strings.IndexAny(key, "./"); i >= 0 && key[i] == '.' {
				key = strings.NewReplacer(".", "/", "/", ".").Replace(key)
			}
			all = append(all, act{{text: "write"}, {"/proc/sys/" + key, w.opaque, w.glob}, {value, w.opaque, w.glob}})
		}
		return all
	case "modprobe", "rmmod":
		if len(words) == 0 {
			break
		}
		for i := range words {
			words[i].text = strings.ReplaceAll(words[i].text, "-", "_")
		}
		switch {
		case name == "rmmod" || has("-r", "--remove", "-rf", "-rv", "-fr"):
			return each(plain("modprobe", "-r"), words)
		case has("-a", "--all"):
			return each(plain("modprobe"), words)
		}
		return []act{append(plain("modprobe"), words...)}
	case "virsh":
		for len(rest) > 0 && strings.HasPrefix(rest[0].text, "-") {
			if (rest[0].text == "-c" || rest[0].text == "--connect") && len(rest) > 1 {
				rest = rest[1:]
			}
			rest = rest[1:]
		}
		return []act{append(plain("virsh"), rest...)}
	case "cpupower", "cpufreq-set":
		for i, a := range rest {
			if (a.text == "-g" || a.text == "--governor") && i+1 < len(rest) {
				return []act{append(plain("governor"), rest[i+1])}
			}
			if governor, ok := strings.CutPrefix(a.text, "--governor="); ok {
				return []act{append(plain("governor"), arg{governor, a.opaque, a.glob})}
			}
		}
	case "killall", "pkill":
		signal := func(a arg) bool {
			return slices.Contains([]string{"-9", "-15", "-KILL", "-TERM", "-SIGKILL", "-SIGTERM", "-q", "-w", "-e", "-x", "-s", "-v"}, a.text)
		}
		if other := func(a arg) bool { return strings.HasPrefix(a.text, "-") && !signal(a) }; slices.ContainsFunc(rest, other) {
			break
		}
		return each(plain("kill"), words)
	case "touch", "rm", "truncate", "mkdir", "rmdir":
		if len(words) > 0 && (name != "truncate" || len(words) == 1 || has("-s", "--size")) {
			if name == "truncate" {
				words = words[len(words)-1:]
			}
			return each(plain(name), words)
		}
	case "chown", "chmod", "chgrp":
		if len(words) > 1 {
			return each(append(plain(name), words[0]), words[1:])
		}
	}
	return []act{append(plain(name), rest...)}
}

// printed returns what an echo or printf prints.
func printed(args []arg) (arg, bool) {
	words := args[1:]
	switch path.Base(args[0].text) {
	case "echo":
		for len(words) > 0 && slices.Contains([]string{"-n", "-e", "-ne", "-en"}, words[0].text) {
			words = words[1:]
		}
	case "printf":
		if len(words) == 2 && strings.HasPrefix(words[0].text, "%") {
			words = words[1:]
		}
	default:
		return arg{}, false
	}
	v := arg{text: strings.TrimSuffix(asText(words), `\n`)}
	for _, w := range words {
		v.opaque, v.glob = v.opaque || w.opaque, v.glob || w.glob
	}
	return v, true
}
