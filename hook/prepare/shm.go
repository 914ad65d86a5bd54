package prepare

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"
	"syscall"

	"qemu-hook/domain"
	"qemu-hook/hook"
	"qemu-hook/sysfs"
)

// shmStep provides the shared-memory files between QEMU and a client such as Looking Glass, and checks kvmfr devices,
// which only their module can make.
type shmStep struct{}

func (shmStep) Name() string { return "shm" }

func (shmStep) Plan(_ context.Context, h *hook.Host, n *domain.Needs) (hook.Proposal, error) {
	var p hook.Proposal
	files := n.Shm
	if len(files) == 0 && len(n.KVMFR) == 0 {
		files = h.Config.LookingGlass.Files
	}
	for _, f := range files {
		c, err := planFile(h, f, &p)
		if err != nil {
			return p, err
		}
		if c != nil {
			p.Changes = append(p.Changes, c)
		}
	}
	for _, f := range n.KVMFR {
		if err := checkKVMFR(h, f, &p); err != nil {
			return p, err
		}
	}
	return p, nil
}

const shmDir = "/dev/shm"

// planFile plans to make the file, or to use the one that is there.
func planFile(h *hook.Host, f domain.File, p *hook.Proposal) (*hook.ShmFile, error) {
	if path.Dir(f.Path) != shmDir {
		p.Warn("%s lies in a directory below %s and is not prepared", f.Path, shmDir)
		return nil, nil
	}
	access, err := accessTo(h, f.Path)
	if err != nil {
		p.Refuse("%v", err)
		return nil, nil
	}
	c := &hook.ShmFile{Path: f.Path, Size: f.Bytes, UID: access.uid, GID: access.gid, Mode: access.mode}
	st, err := h.Lstat(f.Path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return c, access.forNewFile(h, c)
	case err != nil:
		return nil, &sysfs.Error{Op: "look at", Path: f.Path, Err: err}
	}
	if reason := unusable(st); reason != "" {
		rm := "rm"
		if st.Type() == syscall.S_IFDIR {
			rm = "rmdir"
		}
		p.Refuse("%s is there already and %s; remove it: %s %s", f.Path, reason, rm, f.Path)
		return nil, nil
	}
	if trusted, err := access.trusts(h, st.UID); err != nil {
		return nil, err
	} else if !trusted {
		p.Refuse("%s belongs to user %s, who is not to be trusted with it; remove the file, or allow the user by %s in %s",
			f.Path, h.UserName(st.UID), access.key("user", h.UserName(st.UID)), "the configuration")
		return nil, nil
	}
	c.Found = &hook.FoundFile{Ino: st.Ino, UID: st.UID, GID: st.GID, Mode: st.Perm(), Size: st.Size}
	return c, nil
}

// unusable says why a file cannot serve, "" if it can.
func unusable(st sysfs.Stat) string {
	switch st.Type() {
	case syscall.S_IFREG:
		if st.Nlink > 1 {
			return "has other names too (hard links)"
		}
		return ""
	case syscall.S_IFLNK:
		return "is a symbolic link"
	case syscall.S_IFDIR:
		return "is a directory"
	case syscall.S_IFIFO:
		return "is a FIFO"
	case syscall.S_IFSOCK:
		return "is a socket"
	}
	return "is a device"
}

// An access is whose a shared-memory file shall be; nil where the configuration does not say.
type access struct {
	name     string // of the file, without its directory
	table    string // of the configuration that speaks of it
	uid, gid *int
	mode     *uint32
}

// accessTo reads the configuration for a file: looking_glass.*, or [shm.NAME] for files of other names.
func accessTo(h *hook.Host, file string) (access, error) {
	a := access{name: path.Base(file)}
	cfg, table := h.Config.ShmOwner(file)
	a.table = table
	if cfg.User != "" {
		uid, err := h.UserID(cfg.User)
		if err != nil {
			return a, fmt.Errorf("%s: %w", a.key("user", cfg.User), err)
		}
		a.uid = &uid
	}
	if cfg.Group != "" {
		gid, err := h.GroupID(cfg.Group)
		if err != nil {
			return a, fmt.Errorf("%s: %w", a.key("group", cfg.Group), err)
		}
		a.gid = &gid
	}
	a.mode = cfg.Mode
	return a, nil
}

// key renders a line of the configuration that concerns the file.
func (a access) key(key, value string) string {
	return fmt.Sprintf("%s.%s = %q", a.table, key, value)
}

// forNewFile fills in what the configuration leaves open: the user at the seat, group kvm, mode 0660.
func (a access) forNewFile(h *hook.Host, c *hook.ShmFile) error {
	if c.UID == nil {
		uid, err := h.SeatUser()
		if err != nil {
			return err
		}
		uid = max(uid, 0)
		c.UID = &uid
	}
	if c.GID == nil {
		gid, err := h.GroupID("kvm")
		var unread *sysfs.Error
		switch {
		case errors.As(err, &unread) && !errors.Is(err, fs.ErrNotExist):
			return err
		case err != nil:
			gid = 0 // there is no such group
		}
		c.GID = &gid
	}
	if c.Mode == nil {
		mode := uint32(0o660)
		c.Mode = &mode
	}
	return nil
}

// trusts reports whether a file of that user may be used: root's, a system account's, the configured user's, or that
// of whoever sits at the seat.
func (a access) trusts(h *hook.Host, uid int) (bool, error) {
	const firstPerson = 1000
	if uid < firstPerson || a.uid != nil && *a.uid == uid {
		return true, nil
	}
	seat, err := h.SeatUser()
	return seat == uid, err
}

// checkKVMFR refuses a kvmfr device that is not there or too small: QEMU would make a plain file of that name.
func checkKVMFR(h *hook.Host, f domain.File, p *hook.Proposal) error {
	mib := (f.Bytes + 1<<20 - 1) >> 20
	st, err := h.Lstat(f.Path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		p.Refuse("%s is missing; load its module: modprobe kvmfr static_size_mb=%d", f.Path, mib)
		return nil
	case err != nil:
		return &sysfs.Error{Op: "look at", Path: f.Path, Err: err}
	case st.Type() != syscall.S_IFCHR:
		p.Refuse("%s is no character device; remove it and load its module: modprobe kvmfr static_size_mb=%d", f.Path, mib)
		return nil
	}
	p.Line("%s: there, %s wanted", f.Path, hook.FormatBytes(f.Bytes))
	const param = "/sys/module/kvmfr/parameters/static_size_mb"
	sizes, err := h.Read(param)
	if err != nil {
		// Without the parameter the device's size cannot be known from outside.
		return nil
	}
	index, err := strconv.Atoi(strings.TrimPrefix(f.Path, "/dev/kvmfr"))
	all := strings.Split(sizes, ",")
	if err != nil || index >= len(all) {
		return nil
	}
	if have, err := strconv.ParseUint(all[index], 10, 32); err == nil && have > 0 && have < mib {
		p.Refuse("%s has %d MiB, the guest wants %d; set options kvmfr static_size_mb=%d in /etc/modprobe.d and load the module again",
			f.Path, have, mib, mib)
	}
	return nil
}
