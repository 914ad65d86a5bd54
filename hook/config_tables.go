package hook

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"qemu-hook/domain"
)

// configTables takes a list of tables, as [[KEY]] or as KEY = [{…}].
func configTables(v any) (tables []map[string]any, ok bool) {
	tables, ok = v.([]map[string]any)
	if list, isList := v.([]any); isList {
		ok = true
		for _, e := range list {
			table, isTable := e.(map[string]any)
			ok = ok && isTable
			tables = append(tables, table)
		}
	}
	return tables, ok
}

// setConfigFiles reads a list of {path, size}.
func setConfigFiles(files *[]domain.File, v any) error {
	tables, ok := configTables(v)
	if !ok {
		return errors.New(`want a list such as [{path = "/dev/shm/looking-glass", size = "64M"}]`)
	}
	got := make([]domain.File, 0, len(tables))
	for _, table := range tables {
		f, err := configFile(table)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(got, func(g domain.File) bool { return g.Path == f.Path }) {
			return fmt.Errorf("%q is there twice", configText(f.Path))
		}
		got = append(got, f)
	}
	*files = got
	return nil
}

// The deadlines of own commands.
const (
	defaultCommandDeadline = 30 * time.Second
	maxCommandDeadline     = 2 * time.Minute // others wait for the lock meanwhile, and an undo has its own bound
)

func setConfigCommands(commands *[]ConfigCommand, v any) error {
	tables, ok := configTables(v)
	if !ok {
		return errors.New(`want [[guest.NAME.run]] tables, or a list such as [{before = ["/usr/local/sbin/prepare"]}]`)
	}
	got := make([]ConfigCommand, 0, len(tables))
	for _, table := range tables {
		c, err := configCommand(table)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(got, func(g ConfigCommand) bool { return slices.Equal(g.Before, c.Before) && slices.Equal(g.After, c.After) }) {
			return errors.New("the same commands are there twice")
		}
		got = append(got, c)
	}
	*commands = got
	return nil
}

func configCommand(table map[string]any) (ConfigCommand, error) {
	c := ConfigCommand{Deadline: defaultCommandDeadline}
	for _, key := range sortedKeys(table) {
		var err error
		switch v := table[key]; key {
		case "before":
			c.Before, err = configCommandLine(v)
		case "after":
			c.After, err = configCommandLine(v)
		case "deadline":
			err = setConfigDuration(&c.Deadline, v, time.Second, maxCommandDeadline)
		default:
			err = errors.New("no such key; known here are before, after and deadline")
		}
		if err != nil {
			return c, fmt.Errorf("%s: %w", configText(key), err)
		}
	}
	if len(c.Before) == 0 && len(c.After) == 0 {
		return c, errors.New("there is neither before nor after")
	}
	return c, nil
}

// configCommandLine takes a program and its arguments, as they are: nothing splits or expands them.
func configCommandLine(v any) ([]string, error) {
	list, ok := v.([]any)
	if !ok || len(list) == 0 {
		return nil, errors.New(`want a list, the program first: ["/usr/local/sbin/name", "argument"]`)
	}
	var line []string
	for _, e := range list {
		s, ok := e.(string)
		if !ok || strings.Contains(s, "\x00") {
			return nil, fmt.Errorf("%s is no string, or has a NUL", configValue(e))
		}
		line = append(line, s)
	}
	if !path.IsAbs(line[0]) || path.Clean(line[0]) != line[0] {
		return nil, fmt.Errorf("%q is no absolute path", configText(line[0]))
	}
	return line, nil
}

func configFile(table map[string]any) (domain.File, error) {
	var f domain.File
	for _, key := range sortedKeys(table) {
		if key != "path" && key != "size" {
			return f, fmt.Errorf("%q is no key of a file; want path and size", configText(key))
		}
	}
	file, ok := table["path"].(string)
	if !ok {
		return f, errors.New("a file has no path, as a string")
	}
	name, inside := strings.CutPrefix(file, shmDir+"/")
	if err := checkShmName(name); !inside || err != nil {
		return f, fmt.Errorf("path = %q is not directly in %s", configText(file), shmDir)
	}
	if table["size"] == nil {
		return f, fmt.Errorf("%s has no size", configText(file))
	}
	if err := setConfigSize(&f.Bytes, table["size"]); err != nil {
		return f, fmt.Errorf("size = %s of %s: %w", configValue(table["size"]), configText(file), err)
	}
	if f.Bytes == 0 || f.Bytes%4096 != 0 {
		return f, fmt.Errorf("size = %s of %s: want a multiple of 4K", configValue(table["size"]), configText(file))
	}
	f.Path = file
	return f, nil
}

// checkShmName accepts the name of a file directly in /dev/shm.
func checkShmName(name string) error {
	if name == "" || name == "." || name == ".." || len(name) > 255 || strings.ContainsAny(name, "/\x00") {
		return fmt.Errorf("%q is no name of a file in %s", configText(name), shmDir)
	}
	return nil
}

// configShm makes the set function of a key of shm.NAME.
func configShm(set func(*ShmOwner, any) error) func(*Config, []string, any) error {
	return func(c *Config, path []string, v any) error {
		name := path[1]
		if err := checkShmName(name); err != nil {
			return err
		}
		if name == lookingGlassName {
			return errors.New("has a table of its own: write looking_glass." + path[2])
		}
		owner := c.Shm[name]
		if err := set(&owner, v); err != nil {
			return err
		}
		if c.Shm == nil {
			c.Shm = map[string]ShmOwner{}
		}
		c.Shm[name] = owner
		return nil
	}
}
