package sysfstest

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"

	"qemu-hook/sysfs"
)

// A scrubber replaces the names of people and of the host.
type scrubber struct {
	names map[string]string
}

// People have numbers from here to there (UID_MIN and UID_MAX in login.defs(5)); systemd's own dynamic users lie above.
const (
	firstPerson = 1000
	lastPerson  = 60000
)

func newScrubber(h sysfs.FS) *scrubber {
	s := &scrubber{names: map[string]string{}}
	passwd, _ := h.Read("/etc/passwd")
	for line := range strings.Lines(passwd) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) < 7 || !isPerson(f[2]) {
			continue
		}
		alias := "user" + f[2]
		s.names[f[0]] = alias
		// The full name, each word of it.
		for word := range strings.FieldsFuncSeq(f[4], func(r rune) bool { return !unicode.IsLetter(r) }) {
			if len(word) > 2 && s.names[word] == "" {
				s.names[word] = alias
			}
		}
	}
	for _, file := range []string{"/proc/sys/kernel/hostname", "/etc/hostname"} {
		name, _ := h.Read(file)
		short, _, _ := strings.Cut(name, ".")
		for _, n := range []string{name, short} {
			if n != "" && n != "localhost" {
				s.names[n] = "host"
			}
		}
	}
	return s
}

func isPerson(uid string) bool {
	n, err := strconv.Atoi(uid)
	return err == nil && n >= firstPerson && n <= lastPerson
}

// text replaces names where they stand as words, and identifiers: UUIDs and hardware addresses.
func (s *scrubber) text(in string) string {
	var b strings.Builder
	for len(in) > 0 {
		if n := identifier(in); n > 0 {
			b.WriteString(strings.Map(func(r rune) rune {
				if r == '-' || r == ':' {
					return r
				}
				return '0'
			}, in[:n]))
			in = in[n:]
			continue
		}
		n := strings.IndexFunc(in, func(r rune) bool { return !wordRune(r) })
		if n < 0 {
			n = len(in)
		}
		if n == 0 {
			n = 1
			b.WriteString(in[:n])
			in = in[n:]
			continue
		}
		b.WriteString(s.word(in[:n]))
		in = in[n:]
	}
	return b.String()
}

func wordRune(r rune) bool {
	return r == '_' || r == '-' || r == '.' || unicode.IsLetter(r) || unicode.IsDigit(r)
}

// word replaces a name, also where dashes, dots or underscores tie it to others: fern-vg, anna.slice.
func (s *scrubber) word(w string) string {
	if to := s.names[w]; to != "" {
		return to
	}
	var b strings.Builder
	for len(w) > 0 {
		n := strings.IndexAny(w, "-_.")
		if n < 0 {
			n = len(w)
		}
		part := w[:n]
		if to := s.names[part]; to != "" {
			part = to
		}
		b.WriteString(part)
		if n < len(w) {
			b.WriteByte(w[n])
			n++
		}
		w = w[n:]
	}
	return b.String()
}

// identifier returns the length of a UUID or a hardware address at the start of a text, 0 if there is none.
func identifier(s string) int {
	for _, form := range []string{"xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx", "xx:xx:xx:xx:xx:xx"} {
		if len(s) < len(form) || len(s) > len(form) && hexDigit(s[len(form)]) {
			continue
		}
		ok := true
		for i := range len(form) {
			if form[i] == 'x' && !hexDigit(s[i]) || form[i] != 'x' && s[i] != form[i] {
				ok = false
				break
			}
		}
		if ok {
			return len(form)
		}
	}
	return 0
}

func hexDigit(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F'
}

// passwd keeps of an account what the program reads.
func (s *scrubber) passwd(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) < 7 {
			continue
		}
		home := f[5]
		if isPerson(f[2]) {
			home = "/home/" + s.names[f[0]]
		}
		fmt.Fprintf(&b, "%s:x:%s:%s::%s:/bin/sh\n", s.word(f[0]), f[2], f[3], home)
	}
	return b.String()
}

// group keeps of a group what the program reads.
func (s *scrubber) group(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) < 4 {
			continue
		}
		name := s.word(f[0])
		if isPerson(f[2]) && s.names[f[0]] == "" {
			name = "group" + f[2]
		}
		members := strings.Split(f[3], ",")
		for i := range members {
			members[i] = s.word(members[i])
		}
		fmt.Fprintf(&b, "%s:x:%s:%s\n", name, f[2], strings.Join(members, ","))
	}
	return b.String()
}
