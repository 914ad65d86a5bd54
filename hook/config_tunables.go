package hook

import (
	"errors"
	"path"
	"slices"
	"strconv"
	"strings"

	"qemu-hook/sysfs"
)

// setConfigTunable takes the value of a file under /proc/sys or /sys.
func setConfigTunable(c *Config, parts []string, v any) error {
	file, err := tunablePath(parts[1:])
	if err != nil {
		return err
	}
	var value string
	switch v := v.(type) {
	case int64:
		value = strconv.FormatInt(v, 10)
	case string:
		value = strings.Join(strings.Fields(v), " ")
	}
	odd := func(r rune) bool { return !strconv.IsPrint(r) }
	if value == "" || len(value) > 1024 || strings.ContainsFunc(value, odd) {
		return errors.New("want a number, or a string as the kernel reads it")
	}
	if c.Tunables == nil {
		c.Tunables = map[string]string{}
	}
	c.Tunables[file] = value
	return nil
}

// tunablePath returns the file that the parts of a key name: a path, or the name of a sysctl with dots or slashes, as
// sysctl(8) has it, of which the one that comes first stands between the parts.
func tunablePath(parts []string) (string, error) {
	name := strings.Join(parts, "/")
	if len(parts) == 1 && !strings.HasPrefix(name, "/") {
		if i := strings.IndexAny(name, "./"); i >= 0 && name[i] == '.' {
			name = strings.NewReplacer(".", "/", "/", ".").Replace(name)
		}
	}
	if !strings.HasPrefix(name, "/") {
		name = "/proc/sys/" + name
	}
	odd := func(r rune) bool { return !strconv.IsPrint(r) || r == ' ' }
	if len(name) > 4095 || path.Clean(name) != name || strings.ContainsFunc(name, odd) {
		return "", errors.New(`is no path of a kernel's file: want one without spaces, "." and ".." in it`)
	}
	if !IsTunable(name) {
		return "", errors.New(`is not under /proc/sys or /sys; want a sysctl such as vm.swappiness, or a quoted path such as "/sys/kernel/mm/ksm/run"`)
	}
	switch base := path.Base(name); {
	case strings.HasPrefix(name, "/sys/devices/virtual/workqueue/"), strings.HasPrefix(name, "/sys/bus/workqueue/"), name == sysfs.WatchdogCPUs:
		return "", errors.New("is for the step kernel, which keeps the guests' CPUs out of it")
	case strings.Contains(name, "hugepages/") || strings.HasPrefix(base, "nr_hugepages"):
		return "", errors.New("is for the step hugepages, which takes from it what the guest's memory needs")
	case strings.HasPrefix(name, "/sys/fs/cgroup/"):
		return "", errors.New("is systemd's to set")
	case slices.Contains([]string{
		"bind", "unbind", "driver_override", "drivers_probe", "new_id", "remove_id", "remove", "rescan", "reset", "uevent",
		"compact_memory", "compact", "drop_caches", "state",
	}, base):
		return "", errors.New("is no setting that could be put back")
	}
	return name, nil
}

// IsTunable reports whether a path lies in one of the trees that [tunables] is about.
func IsTunable(file string) bool {
	return strings.HasPrefix(file, "/proc/sys/") || strings.HasPrefix(file, "/sys/")
}

// sameTunable refuses two keys that name one file, of which nobody could say which counts.
func sameTunable(name string, settings []configSetting) error {
	seen := map[string][]string{}
	for _, s := range settings {
		if !s.key.deep() {
			continue
		}
		file, err := tunablePath(s.path[1:])
		if err != nil {
			return err
		}
		if first := seen[s.guest+" "+file]; first != nil {
			return s.parser.mistake(s.path, nil, "is the same as "+configKeyString(first...)+", "+file)
		}
		seen[s.guest+" "+file] = s.path
	}
	return nil
}
