package text

import (
	"strconv"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"pgregory.net/rapid"
)

func TestLine(t *testing.T) {
	for s, want := range map[string]string{
		"win11 ü → 中":      "win11 ü → 中",
		"a\nb\tc\r\nd":     "a?b c??d",
		"\x1b[2J\x07":      "?[2J?",
		"\u009b31m":        "?31m", // the same in one character
		"a\xffb\xc3":       "a?b?",
		"\u202egpj.exe":    "?gpj.exe", // which would be shown backwards
		"a\u2028b\x00\x7f": "a?b??",
	} {
		if got := Line(s); got != want {
			t.Errorf("%q becomes %q, want %q", s, got, want)
		}
	}
	if got, want := Lines("a\n\x1b[2J\tb\r\n"), "a\n?[2J b?\n"; got != want {
		t.Errorf("the lines become %q, want %q", got, want)
	}
}

func TestShort(t *testing.T) {
	for _, test := range []struct {
		s    string
		n    int
		want string
	}{
		{"", 0, ""}, {"a", 0, "…"}, {"äöü", 3, "äöü"}, {"äöüß", 3, "äöü…"}, {strings.Repeat("中", 1e6), 2, "中中…"},
	} {
		if got := Short(test.s, test.n); got != test.want {
			t.Errorf("%.20q at %d becomes %q, want %q", test.s, test.n, got, test.want)
		}
	}
}

// Whatever comes, nothing that a terminal acts on is left, and what can be shown is not touched.
func TestAnyText(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := string(rapid.SliceOf(rapid.Byte()).Draw(t, "bytes")) + rapid.String().Draw(t, "text")
		line := Line(s)
		if !utf8.ValidString(line) || strings.ContainsFunc(line, func(r rune) bool { return !strconv.IsPrint(r) || unicode.IsControl(r) }) {
			t.Fatalf("%q becomes %q", s, line)
		}
		if Line(line) != line || strings.ReplaceAll(Lines(s), "\n", "?") != line || utf8.RuneCountInString(s) != utf8.RuneCountInString(line) {
			t.Fatalf("%q becomes %q, and by lines %q", s, line, Lines(s))
		}
		if got := Short(s, 5); utf8.RuneCountInString(got) > 6 || utf8.RuneCountInString(s) <= 5 && got != s {
			t.Fatalf("%q is cut to %q", s, got)
		}
	})
}
