package hook

import (
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"strconv"
	"strings"
	"time"

	"qemu-hook/cpuset"
	"qemu-hook/domain"
)

// What follows makes the set functions of keys. Their errors go behind the key and its value: they say what is wrong
// and what is allowed.

func configBool(field func(*Config) *bool) func(*Config, []string, any) error {
	return func(c *Config, _ []string, v any) error {
		b, ok := v.(bool)
		if !ok {
			return errors.New("want true or false")
		}
		*field(c) = b
		return nil
	}
}

func configInt(set func(*Config, int64), most int64) func(*Config, []string, any) error {
	return func(c *Config, _ []string, v any) error {
		n, ok := v.(int64)
		if !ok || n < 0 || n > most {
			return fmt.Errorf("want a number from 0 to %d", most)
		}
		set(c, n)
		return nil
	}
}

func configEnum[T ~string](field func(*Config) *T, allowed ...T) func(*Config, []string, any) error {
	return func(c *Config, _ []string, v any) error {
		s, ok := v.(string)
		if !ok || !slices.Contains(allowed, T(s)) {
			return errors.New("want " + configChoice(allowed))
		}
		*field(c) = T(s)
		return nil
	}
}

// configChoice renders the allowed values.
func configChoice[T ~string](allowed []T) string {
	var s []string
	for _, a := range allowed {
		s = append(s, strconv.Quote(string(a)))
	}
	last := len(s) - 1
	return strings.Join(s[:last], ", ") + " or " + s[last]
}

// configList makes the set function of a list of strings, each of which check accepts.
func configList(field func(*Config) *[]string, check func(string) error) func(*Config, []string, any) error {
	return func(c *Config, _ []string, v any) error {
		list, ok := v.([]any)
		if !ok {
			return errors.New(`want a list of strings, such as ["a", "b"]`)
		}
		got := make([]string, 0, len(list))
		for _, e := range list {
			s, ok := e.(string)
			if !ok {
				return fmt.Errorf("%s is no string", configValue(e))
			}
			if err := check(s); err != nil {
				return fmt.Errorf("%q %w", configText(s), err)
			}
			if slices.Contains(got, s) {
				return fmt.Errorf("%q is there twice", s)
			}
			got = append(got, s)
		}
		*field(c) = got
		return nil
	}
}

func configOneOf(allowed ...string) func(string) error {
	return func(s string) error {
		if !slices.Contains(allowed, s) {
			return errors.New("is not allowed; want " + configChoice(allowed))
		}
		return nil
	}
}

// checkConfigUnit accepts units that can be limited to CPUs without taking them from guests: libvirt puts those into
// machine.slice.
func checkConfigUnit(s string) error {
	name, ok := unitName(s, "slice", "scope", "service")
	switch {
	case !ok:
		return errors.New(`is no unit that can be limited; want one that ends in ".slice", ".scope" or ".service"`)
	case name == "-", name == "machine", strings.HasPrefix(name, "machine-"):
		return errors.New("holds the guests themselves and cannot be kept off their CPUs")
	}
	return nil
}

// unitName returns a unit's name without its suffix; ok is false if it is none of systemd's names (systemd.unit(5)) or
// has none of the suffixes.
func unitName(s string, suffixes ...string) (name string, ok bool) {
	const allowed = "-_.:@\\"
	odd := func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune(allowed, r))
	}
	i := strings.LastIndexByte(s, '.')
	if i <= 0 || len(s) > 255 || strings.ContainsFunc(s, odd) || !slices.Contains(suffixes, s[i+1:]) {
		return "", false
	}
	return s[:i], true
}

// checkConfigStop accepts units that can be stopped and started again, and that neither libvirt nor this program
// need meanwhile.
func checkConfigStop(s string) error {
	name, ok := unitName(s, "service", "socket", "timer", "path", "target", "mount")
	if !ok {
		return errors.New(`is no unit that can be stopped; want one that ends in ".service", ".socket", ".timer", ".path", ".target" or ".mount"`)
	}
	needed := []string{
		"libvirtd", "virtqemud", "virtproxyd", "virtlogd", "virtlockd", "dbus", "dbus-broker",
		"systemd-logind", "systemd-udevd", "systemd-machined", "systemd-journald",
	}
	if slices.Contains(needed, name) {
		return errors.New("is needed while a guest starts")
	}
	return nil
}

// checkConfigCommand accepts the name of a command or of a unit.
func checkConfigCommand(s string) error {
	if s == "" || len(s) > 255 || strings.ContainsFunc(s, func(r rune) bool { return r == '/' || !strconv.IsPrint(r) }) {
		return errors.New(`is neither a command's name, such as "chrome", nor a unit's`)
	}
	return nil
}

// checkConfigAddress accepts a PCI address with its domain.
func checkConfigAddress(s string) error {
	if a, err := domain.ParseAddress(s); err != nil || a != s {
		return errors.New(`is no PCI address; want one such as "0000:08:00.0", in lower case, as lspci -D prints it`)
	}
	return nil
}

// configByAddress makes the set function of a key whose last part is a PCI address.
func configByAddress[T any](field func(*Config) *map[string]T, parse func(v any) (T, error)) func(*Config, []string, any) error {
	return func(c *Config, path []string, v any) error {
		address := path[len(path)-1]
		if err := checkConfigAddress(address); err != nil {
			return fmt.Errorf("%q %w", configText(address), err)
		}
		t, err := parse(v)
		if err != nil {
			return err
		}
		m := field(c)
		if *m == nil {
			*m = map[string]T{}
		}
		(*m)[address] = t
		return nil
	}
}

func setConfigGiveBack(v any) (GiveBack, error) {
	allowed := []GiveBack{GiveBackAsBefore, GiveBackStay}
	s, ok := v.(string)
	if !ok || !slices.Contains(allowed, GiveBack(s)) {
		return "", errors.New("want " + configChoice(allowed))
	}
	return GiveBack(s), nil
}

// setConfigBARs reads "1=256M,3=32M": number and size of base address registers.
func setConfigBARs(v any) ([]BARSize, error) {
	const want = `want numbers and sizes of BARs, such as "1=256M": a power of two from 1M, and a BAR from 0 to 5`
	s, ok := v.(string)
	if !ok {
		return nil, errors.New(want)
	}
	var bars []BARSize
	for part := range strings.SplitSeq(s, ",") {
		number, size, ok := strings.Cut(strings.TrimSpace(part), "=")
		n, err := strconv.Atoi(number)
		b := BARSize{BAR: n}
		if !ok || err != nil || n < 0 || n > 5 || setConfigSize(&b.Bytes, size) != nil || b.Bytes < 1<<20 || bits.OnesCount64(b.Bytes) != 1 {
			return nil, errors.New(want)
		}
		if slices.ContainsFunc(bars, func(o BARSize) bool { return o.BAR == n }) {
			return nil, fmt.Errorf("BAR %d is there twice", n)
		}
		bars = append(bars, b)
	}
	return bars, nil
}

func setConfigReset(v any) (string, error) {
	s, ok := v.(string)
	odd := func(r rune) bool { return !(r >= 'a' && r <= 'z' || r == '_' || r == ' ') }
	if !ok || s == "" || len(s) > 64 || strings.ContainsFunc(s, odd) {
		return "", errors.New(`want a method such as "bus" or "flr", of those that the function's reset_method lists`)
	}
	return s, nil
}

// setConfigPath takes an absolute path, or "".
func setConfigPath(field *string, v any) error {
	s, ok := v.(string)
	if !ok || s != "" && (!strings.HasPrefix(s, "/") || len(s) > 4095 || strings.Contains(s, "\x00")) {
		return errors.New("want an absolute path as a string")
	}
	*field = s
	return nil
}

func setConfigCPUs(set *cpuset.Set, v any) error {
	s, ok := v.(string)
	if !ok {
		return errors.New(`want a list of CPUs as a string, such as "0-3,16"`)
	}
	cpus, err := cpuset.ParseList(s)
	if err != nil {
		return err
	}
	if s != "" && cpus.Empty() {
		return errors.New(`has no CPU in it; want a list such as "0-3,16", or ""`)
	}
	*set = cpus
	return nil
}

// setConfigSize reads "1G", "512M" or a number of bytes.
func setConfigSize(size *uint64, v any) error {
	const want = `want a size such as "512M" or "1G" (K, M, G and T are powers of 1024), or a number of bytes`
	switch v := v.(type) {
	case int64:
		if v < 0 {
			return errors.New(want)
		}
		*size = uint64(v)
		return nil
	case string:
		digits := strings.TrimRight(v, "iBKMGT ")
		n, err := strconv.ParseUint(digits, 10, 64)
		if err != nil {
			return errors.New(want)
		}
		var shift int
		switch strings.TrimLeft(v[len(digits):], " ") {
		case "":
		case "K", "KiB":
			shift = 10
		case "M", "MiB":
			shift = 20
		case "G", "GiB":
			shift = 30
		case "T", "TiB":
			shift = 40
		default:
			return errors.New(want)
		}
		if bits.Len64(n)+shift > 63 {
			return errors.New("is too large; " + want)
		}
		*size = n << shift
		return nil
	}
	return errors.New(want)
}

func setConfigDuration(d *time.Duration, v any, least, most time.Duration) error {
	s, ok := v.(string)
	t, err := time.ParseDuration(s)
	if !ok || err != nil || t < least || t > most {
		return fmt.Errorf(`want a time such as "90s" or "2m", from %s to %s`, configDuration(least), configDuration(most))
	}
	*d = t
	return nil
}

// configDuration renders a whole number of hours or seconds.
func configDuration(d time.Duration) string {
	if d > 0 && d%time.Hour == 0 {
		return strconv.Itoa(int(d/time.Hour)) + "h"
	}
	return strconv.Itoa(int(d/time.Second)) + "s"
}

// setConfigUser takes the name or number of a user or group; whether there is one, the step finds out.
func setConfigUser(name *string, v any) error {
	s, ok := v.(string)
	odd := func(r rune) bool { return r <= ' ' || r == ':' || r == '/' || r == ',' || !strconv.IsPrint(r) }
	if !ok || len(s) > 64 || strings.ContainsFunc(s, odd) || strings.HasPrefix(s, "-") {
		return errors.New(`want a name or number as a string, such as "alice" or "1000"`)
	}
	*name = s
	return nil
}

func setConfigMode(mode **uint32, v any) error {
	s, ok := v.(string)
	if ok && s == "" {
		*mode = nil
		return nil
	}
	n, err := strconv.ParseUint(s, 8, 32)
	if !ok || err != nil || n > 0o777 || len(s) > 4 {
		return errors.New(`want permission bits as an octal string, such as "0660"; at most "0777"`)
	}
	m := uint32(n)
	*mode = &m
	return nil
}

// setConfigWord takes one of the kernel's words, such as a governor's name, or "".
func setConfigWord(word *string, v any) error {
	s, ok := v.(string)
	odd := func(r rune) bool { return !(r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '_' || r == '-') }
	if !ok || len(s) > 32 || strings.ContainsFunc(s, odd) {
		return errors.New(`want one word of those that the kernel lists, such as "performance"`)
	}
	*word = s
	return nil
}

// setConfigLatency takes microseconds as the kernel reads them, "n/a" or "".
func setConfigLatency(latency *string, v any) error {
	if n, number := v.(int64); number {
		v = strconv.FormatInt(n, 10)
	}
	s, ok := v.(string)
	if ok && s != "" && s != "n/a" {
		n, err := strconv.ParseUint(s, 10, 31)
		ok = err == nil && n > 0
	}
	if !ok {
		return errors.New(`want microseconds, such as 20, or "n/a" for at once`)
	}
	*latency = s
	return nil
}
