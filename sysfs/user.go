package sysfs

import (
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
)

// UserID returns the number of a user of /etc/passwd (passwd(5)); a number is taken as it is.
func (h FS) UserID(name string) (int, error) { return h.accountID("user", "/etc/passwd", name) }

// GroupID returns the number of a group of /etc/group (group(5)); a number is taken as it is.
func (h FS) GroupID(name string) (int, error) { return h.accountID("group", "/etc/group", name) }

func (h FS) accountID(kind, file, name string) (int, error) {
	if n, err := strconv.ParseUint(name, 10, 31); err == nil {
		return int(n), nil
	}
	v, err := h.Read(file)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(v) {
		// name:password:number:…, in both files.
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) > 2 && f[0] == name {
			n, err := strconv.ParseUint(f[2], 10, 31)
			if err != nil {
				return 0, fmt.Errorf("cannot use %s %s: %s gives it the number %q", kind, name, file, f[2])
			}
			return int(n), nil
		}
	}
	return 0, fmt.Errorf("there is no %s %s in %s; give the number if it comes from elsewhere", kind, name, file)
}

// UserName returns the name of a user of /etc/passwd, the number if it has none.
func (h FS) UserName(uid int) string {
	number := strconv.Itoa(uid)
	v, err := h.Read("/etc/passwd")
	if err != nil {
		return number
	}
	for line := range strings.Lines(v) {
		if f := strings.Split(line, ":"); len(f) > 2 && f[2] == number {
			return f[0]
		}
	}
	return number
}

// SeatUser returns the user of the active session on seat0, as systemd-logind keeps it for its own library in
// /run/systemd/seats/seat0; -1 if there is none.
func (h FS) SeatUser() (int, error) {
	v, err := h.Read("/run/systemd/seats/seat0")
	if errors.Is(err, fs.ErrNotExist) {
		return -1, nil
	} else if err != nil {
		return -1, err
	}
	for line := range strings.Lines(v) {
		if s, ok := strings.CutPrefix(strings.TrimSpace(line), "ACTIVE_UID="); ok {
			if uid, err := strconv.Atoi(s); err == nil {
				return uid, nil
			}
		}
	}
	return -1, nil
}
