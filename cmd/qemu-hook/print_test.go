package main

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestShorten(t *testing.T) {
	long := strings.Repeat("a very long word of explanation ", 8)
	for _, c := range []struct{ in, want string }{
		{"short", "short"},
		{"cannot get pages; " + long, "cannot get pages; " + long},
		{
			"IOMMU group 18 of 0000:08:00.0 is not viable: 0000:08:00.1 [10de:22bc] (snd_hda_intel) stays on a host driver; " + long,
			"IOMMU group 18 of 0000:08:00.0 is not viable: 0000:08:00.1 [10de:22bc] (snd_hda_intel) stays on a host driver",
		},
		{
			"cannot get 8192 huge pages of 2048 KiB on node 0: only 5120 are to be had (not done within a minute: " + long + ")",
			"cannot get 8192 huge pages of 2048 KiB on node 0: only 5120 are to be had",
		},
		{
			`cannot keep a guest with the name "Windows 11, for games, or what they are; ` + long + `" from starting`,
			"cannot keep a guest with the name",
		},
	} {
		got := shorten(c.in)
		if len(got) > lastLine || strings.Count(got, "(") != strings.Count(got, ")") || strings.Count(got, `"`)%2 != 0 {
			t.Errorf("%q is no whole sentence of at most %d bytes", got, lastLine)
		}
		if len(c.want) <= lastLine && got != c.want && len(c.in) > lastLine && c.in != c.want {
			t.Errorf("%q became %q, want %q", c.in, got, c.want)
		}
	}
	if got := shorten(strings.Repeat("–", 100)); len(got) > lastLine || !utf8.ValidString(got) {
		t.Errorf("a word without an end became %q", got)
	}
}

// What several parts of the work failed for is one reason.
func TestReasonsOnce(t *testing.T) {
	full := errors.New("cannot keep the ledger: no space left on device")
	got := reasons(errors.Join(full, errors.New("cannot give back huge pages"), full))
	if want := []string{full.Error(), "cannot give back huge pages"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}
