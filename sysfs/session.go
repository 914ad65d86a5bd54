package sysfs

import (
	"errors"
	"io/fs"
	"slices"
	"strconv"
	"strings"
)

// A Session is a login session as systemd-logind keeps it for its own library in /run/systemd/sessions.
type Session struct {
	ID, User, Seat string
	Type, Class    string // "wayland", "x11", "tty"; "user", "greeter"
	Scope          string // session-2.scope
	Service        string // the PAM service that began it
	UID, Leader    int
	Devices        []uint64 // device numbers that logind keeps open for the session
}

// Graphical reports whether the session is a desktop or a graphical greeter.
func (s Session) Graphical() bool {
	return s.Seat != "" && slices.Contains([]string{"x11", "wayland", "mir"}, s.Type)
}

// Sessions returns the host's sessions, none without logind.
func (h FS) Sessions() ([]Session, error) {
	const dir = "/run/systemd/sessions"
	names, err := h.ListIfAny(dir)
	if err != nil {
		return nil, err
	}
	var all []Session
	for _, name := range names {
		if strings.HasSuffix(name, ".ref") || strings.HasPrefix(name, ".") {
			continue
		}
		v, err := h.Read(dir + "/" + name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return nil, err
		}
		all = append(all, parseSession(name, v))
	}
	return all, nil
}

func parseSession(id, text string) Session {
	s := Session{ID: id}
	for line := range strings.Lines(text) {
		key, v, _ := strings.Cut(strings.TrimSpace(line), "=")
		v = strings.Trim(v, `"`)
		switch key {
		case "USER":
			s.User = v
		case "UID":
			s.UID, _ = strconv.Atoi(v)
		case "SEAT":
			s.Seat = v
		case "TYPE":
			s.Type = v
		case "CLASS":
			s.Class = v
		case "SCOPE":
			s.Scope = v
		case "SERVICE":
			s.Service = v
		case "LEADER":
			s.Leader, _ = strconv.Atoi(v)
		case "DEVICES":
			for _, d := range strings.Fields(v) {
				if n, ok := parseDev(d); ok {
					s.Devices = append(s.Devices, n)
				}
			}
		}
	}
	return s
}
