package cpuset

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// ParseList reads the kernel's CPU list format ("0-3,16", "0-31:2/4", "" for the empty set): numbers and ranges between
// commas or white space, a range optionally followed by ":used/group" for the first "used" of every "group" CPUs.
// The kernel's "all" and "N" are refused, as they mean nothing without a host; so is any number from Max on.
//
// Documentation/admin-guide/kernel-parameters.rst, "cpu lists"; lib/bitmap-str.c, bitmap_parselist.
func ParseList(s string) (Set, error) {
	var b builder
	if err := checkLength(s); err != nil {
		return Set{}, fmt.Errorf("cannot parse CPU list %s: %w", quote(s), err)
	}
	for region := range strings.FieldsFuncSeq(s, endOfRegion) {
		if err := addRegion(&b, region); err != nil {
			return Set{}, fmt.Errorf(
				"cannot parse CPU list %s: %w; allowed are numbers and ranges such as 0-3,16", quote(s), err)
		}
	}
	return b.set(), nil
}

func endOfRegion(r rune) bool { return r == ',' || r < 0x80 && isSpace(byte(r)) }

// addRegion reads one "N", "N-M" or "N-M:used/group".
func addRegion(b *builder, region string) error {
	if region[0] == 'N' || strings.EqualFold(region, "all") {
		return fmt.Errorf("%s depends on the host, write the numbers", quote(region))
	}
	first, rest, err := cutNumber(region)
	if err != nil {
		return err
	}
	last := first
	used, group := Max, Max
	if after, ok := strings.CutPrefix(rest, "-"); ok {
		if last, rest, err = cutNumber(after); err != nil {
			return err
		}
		if last < first {
			return fmt.Errorf("the range %s runs backwards", quote(region))
		}
		if after, ok := strings.CutPrefix(rest, ":"); ok {
			if used, group, rest, err = cutPattern(after); err != nil {
				return err
			}
		}
	}
	if rest != "" {
		return fmt.Errorf("%s is not expected after %s", quote(rest), quote(strings.TrimSuffix(region, rest)))
	}
	if used == 0 {
		return nil
	}
	for start := first; start <= last; start += group {
		b.addRange(start, min(start+used-1, last))
	}
	return nil
}

// cutPattern reads the "used/group" of a range.
func cutPattern(s string) (used, group int, rest string, err error) {
	if used, rest, err = cutNumber(s); err != nil {
		return 0, 0, s, err
	}
	rest, ok := strings.CutPrefix(rest, "/")
	if !ok {
		return 0, 0, s, fmt.Errorf("%s is not used/group", quote(s))
	}
	if group, rest, err = cutNumber(rest); err != nil {
		return 0, 0, s, err
	}
	if group == 0 {
		return 0, 0, s, errors.New("a group of 0 CPUs")
	}
	if used > group {
		return 0, 0, s, fmt.Errorf("%d used out of a group of %d", used, group)
	}
	return used, group, rest, nil
}

// String returns the kernel's CPU list format; "" for the empty set.
func (s Set) String() string {
	var out []byte
	first, last := -1, -1
	flush := func() {
		if first < 0 {
			return
		}
		if len(out) > 0 {
			out = append(out, ',')
		}
		out = strconv.AppendInt(out, int64(first), 10)
		if last > first {
			out = append(out, '-')
			out = strconv.AppendInt(out, int64(last), 10)
		}
	}
	for id := range s.All() {
		if id != last+1 || first < 0 {
			flush()
			first = id
		}
		last = id
	}
	flush()
	return string(out)
}
