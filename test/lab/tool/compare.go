package main

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
)

var errDiffers = errors.New("the state is not as before")

// readSnapshot reads what snapshot printed.
func readSnapshot(file string) (map[string]string, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	values := map[string]string{}
	for line := range strings.Lines(string(data)) {
		key, value, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " = ")
		if !ok {
			return nil, fmt.Errorf("%s: no snapshot's line: %q", file, line)
		}
		values[key] = value
	}
	if len(values) == 0 {
		return nil, fmt.Errorf("%s is empty", file)
	}
	return values, nil
}

// compare prints every difference as "KEY: BEFORE -> AFTER", and fails if one is matched by no expression.
func compare(before, after, explained string) error {
	a, err := readSnapshot(before)
	if err != nil {
		return err
	}
	b, err := readSnapshot(after)
	if err != nil {
		return err
	}
	var expressions []*regexp.Regexp
	if data, err := os.ReadFile(explained); err == nil {
		for line := range strings.Lines(string(data)) {
			re, err := regexp.Compile("^(?:" + strings.TrimSuffix(line, "\n") + ")$")
			if err != nil {
				return err
			}
			expressions = append(expressions, re)
		}
	} else if !errors.Is(err, os.ErrNotExist) {
		return err
	}
	keys := map[string]bool{}
	for k := range a {
		keys[k] = true
	}
	for k := range b {
		keys[k] = true
	}
	bad := false
	for _, k := range slices.Sorted(maps.Keys(keys)) {
		old, was := a[k]
		now, is := b[k]
		if was && is && old == now {
			continue
		}
		line := fmt.Sprintf("%s: %s -> %s", k, orNone(old, was), orNone(now, is))
		if slices.ContainsFunc(expressions, func(re *regexp.Regexp) bool { return re.MatchString(line) }) {
			fmt.Println("explained:", line)
			continue
		}
		fmt.Println("differs:  ", line)
		bad = true
	}
	if bad {
		return errDiffers
	}
	return nil
}

func orNone(s string, is bool) string {
	if !is {
		return "(none)"
	}
	return s
}
