package cpuset

import (
	"errors"
	"fmt"
	"strings"
)

// ParseLibvirt reads libvirt's cpuset grammar ("1-4,^3", blanks allowed, evaluated left to right): "N" adds a number,
// "N-M" a range, "^N" takes a single number out again; so "^3,1-4" keeps 3. The set must not come out empty.
//
// libvirt, docs/formatdomain.rst, "CPU Allocation"; src/util/virbitmap.c, virBitmapParse.
func ParseLibvirt(s string) (Set, error) {
	set, err := parseLibvirt(s)
	if err != nil {
		return Set{}, fmt.Errorf("cannot parse libvirt CPU set %s: %w; allowed are numbers, ranges and exclusions "+
			"such as 0-7,^3", quote(s), err)
	}
	return set, nil
}

func parseLibvirt(s string) (Set, error) {
	if err := checkLength(s); err != nil {
		return Set{}, err
	}
	var b builder
	rest := skipSpaces(s)
	if rest == "" {
		return Set{}, errors.New("it is empty")
	}
	// The loop ends after a comma as well: libvirt takes "1,2,".
	for rest != "" {
		var err error
		if rest, err = addLibvirt(&b, rest); err != nil {
			return Set{}, err
		}
		rest = skipSpaces(rest)
		if rest == "" {
			break
		}
		after, ok := strings.CutPrefix(rest, ",")
		if !ok {
			return Set{}, fmt.Errorf("%s is not expected", quote(rest))
		}
		rest = skipSpaces(after)
	}
	set := b.set()
	if set.Empty() {
		return Set{}, errors.New("nothing is left in it")
	}
	return set, nil
}

// addLibvirt reads one "N", "N-M" or "^N" at the beginning of s.
func addLibvirt(b *builder, s string) (rest string, err error) {
	s, exclude := strings.CutPrefix(s, "^")
	first, rest, err := cutNumber(s)
	if err != nil {
		return s, err
	}
	rest = skipSpaces(rest)
	after, isRange := strings.CutPrefix(rest, "-")
	switch {
	case exclude && isRange:
		return s, fmt.Errorf("^%s excludes a range, only single numbers can be excluded", clip(s))
	case exclude:
		b.remove(first)
		return rest, nil
	case !isRange:
		b.add(first)
		return rest, nil
	}
	last, rest, err := cutNumber(skipSpaces(after))
	if err != nil {
		return s, err
	}
	if last < first {
		return s, fmt.Errorf("the range %d-%d runs backwards", first, last)
	}
	b.addRange(first, last)
	return rest, nil
}

func skipSpaces(s string) string {
	for s != "" && isSpace(s[0]) {
		s = s[1:]
	}
	return s
}
