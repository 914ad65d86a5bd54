package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"qemu-hook/hook"
)

// moveTimeout bounds the wait for hooks that are at work, and what systemd and SELinux's programs may take.
const moveTimeout = 3 * time.Minute

func installFlags(set *flag.FlagSet, o *options) {
	uninstallFlags(set, o)
	set.BoolVar(&o.replace, "replace", false, "")
}

func uninstallFlags(set *flag.FlagSet, o *options) {
	set.BoolVar(&o.dryRun, "dry-run", false, "")
}

// runInstall puts the program, its unit and its hook in place, and what is in their way aside, as far as that is wanted.
func runInstall(o options, args []string) error {
	if len(args) > 0 {
		return usageError("install takes no arguments")
	}
	return moving(o, "install", func(h *hook.Host, in *installation) error {
		program, err := os.ReadFile("/proc/self/exe")
		if err != nil {
			return fmt.Errorf("cannot read this program: %w", err)
		}
		p, err := planInstall(in, program, o.replace)
		if err != nil {
			return err
		}
		if len(p.inTheWay) > 0 && !o.replace {
			for _, o := range p.inTheWay {
				errorf("%s is in the way: %s", o.path, o.why)
			}
			hintf("nothing was changed; install --replace moves aside what is in the way, and uninstall puts it back")
			return errSaid
		}
		if err := noGuestBetween(h, p.parts); err != nil {
			return err
		}
		unaware := in.unaware(h)
		for _, path := range p.there {
			out("%s is there", path)
		}
		if err := carryOut(h, o, in, p.parts); err != nil || o.dryRun {
			return err
		}
		if unaware != nil {
			hintf("%s has looked for hooks when there was none: sudo systemctl reload %[1]s", daemonName(h, unaware))
		}
		return nil
	})
}

// carryOut writes down the parts and does them.
func carryOut(h *hook.Host, o options, in *installation, parts []*part) error {
	if o.dryRun {
		for _, p := range parts {
			out("would %s", p)
		}
		if len(parts) == 0 {
			out("there is nothing to do")
		}
		return nil
	}
	for _, p := range parts {
		in.add(p)
	}
	if in.Unaware = in.unaware(h); len(parts) == 0 && in.Unaware == nil {
		out("there is nothing to do")
		return nil
	}
	if err := in.save(); err != nil {
		return err
	}
	for _, p := range parts {
		if err := in.do(p); err != nil {
			return fmt.Errorf("cannot %s: %w; qemu-hook uninstall takes back what was done", p, err)
		}
		out("%s: done", p)
	}
	// From here on only what was written now is ours.
	for _, p := range parts {
		p.Sums = p.Sums[:min(1, len(p.Sums))]
	}
	if err := in.save(); err != nil {
		return err
	}
	tell(h, in, parts)
	return nil
}

// runUninstall takes back what install has done.
func runUninstall(o options, args []string) error {
	if len(args) > 0 {
		return usageError("uninstall takes no arguments")
	}
	return moving(o, "uninstall", func(h *hook.Host, in *installation) error {
		if err := nothingHeld(h); err != nil {
			return err
		}
		if err := noGuestBetween(h, in.Parts); err != nil {
			return err
		}
		if len(in.Parts) == 0 {
			out("nothing was installed by qemu-hook install")
		}
		defer func() {
			for _, name := range leftHooks(in) {
				hintf("%s was not put there by qemu-hook install; libvirt calls it until it is removed: sudo rm %[1]s", name)
			}
		}()
		var errs error
		parts, kept := slices.Clone(in.Parts), []*part{}
		for _, p := range slices.Backward(parts) {
			if o.dryRun {
				out("would %s", p.back())
				continue
			}
			left, err := in.undo(p)
			switch {
			case left != "" && slices.ContainsFunc(kept, p.holds):
				kept = append([]*part{p}, kept...)
			case err != nil:
				kept = append([]*part{p}, kept...)
				errs = errors.Join(errs, err)
			case left != "":
				warnf("%s", left)
			default:
				out("%s: done", p.back())
			}
		}
		if o.dryRun {
			return nil
		}
		in.Parts, in.Unaware = kept, nil
		errs = errors.Join(errs, in.save())
		tell(h, in, parts)
		return errs
	})
}

// leftHooks returns the links to the program that uninstall leaves, because it did not make them.
func leftHooks(in *installation) []string {
	all, _ := ourLinks(in.root)
	return slices.DeleteFunc(all, func(name string) bool { return in.find(partLink, name) != nil })
}

// moving runs what changes the installation, while no hook is at work.
func moving(o options, what string, f func(*hook.Host, *installation) error) error {
	if !o.dryRun {
		if err := needRoot(o, what); err != nil {
			return err
		}
	}
	if exists(filepath.Join(o.root, "/etc/NIXOS")) {
		return errors.New("this is NixOS, which makes its files anew from its configuration; use qemu-hook's module, or virtualisation.libvirtd.hooks.qemu")
	}
	h, err := newHost(o)
	switch {
	case errors.Is(err, fs.ErrNotExist) && !exists(filepath.Join(o.root, stateDir)):
		h = nil // a tree of files, such as an image: no kernel, no guests
	case err != nil:
		return err
	case !o.dryRun:
		ctx, cancel := context.WithTimeout(context.Background(), moveTimeout)
		defer cancel()
		lock, err := h.State.Lock(ctx, what)
		if err != nil {
			return err
		}
		defer lock.Unlock()
	}
	in, err := loadInstallation(o.root)
	if err != nil {
		return err
	}
	return f(h, in)
}

// nothingHeld refuses as long as a guest has something of the host: it is this program that gives it back.
func nothingHeld(h *hook.Host) error {
	if h == nil || !onRecord(h) {
		return nil
	}
	if err := h.LoadLedger(); err != nil {
		return err
	}
	s := gatherStatus(h)
	for _, g := range s.Guests {
		errorf("%s (%s) holds something of the host", g.Name, g.State)
		if g.Next != "" {
			hintf("%s", g.Next)
		}
	}
	if len(s.Guests) > 0 {
		hintf("nothing was changed; shut down guests that run, and see qemu-hook status")
		return errSaid
	}
	// What irqbalance was told stays on record for a while, and is nothing that the host has lost.
	left := *h.Ledger
	if left.Banned = nil; !left.Empty() {
		return errors.New("the host does not have back all that is its own; see qemu-hook status, and qemu-hook recover")
	}
	return nil
}

// noGuestBetween refuses to change hooks under a guest: the hooks that prepared it are to release it.
func noGuestBetween(h *hook.Host, parts []*part) error {
	if h == nil || !movesHooks(parts) {
		return nil
	}
	pid, err := h.SomeGuest()
	if pid != 0 {
		return fmt.Errorf("a guest runs (pid %d) and is to be released by the hooks that prepared it; shut it down first", pid)
	}
	return err
}

// tell lets SELinux label what is new, and systemd read its units again.
func tell(h *hook.Host, in *installation, parts []*part) {
	if h == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), moveTimeout)
	defer cancel()
	const restorecon, systemctl = "/usr/sbin/restorecon", "/usr/bin/systemctl"
	var there []string
	units := false
	for _, p := range parts {
		units = units || strings.HasPrefix(p.Path, unitDir+"/")
		if exists(in.path(p.Path)) {
			there = append(there, in.path(p.Path))
		}
	}
	if h.Exists("/sys/fs/selinux/enforce") && h.Exists(restorecon) && len(there) > 0 {
		if err := h.Run(ctx, restorecon, there...); err != nil {
			warnf("cannot have SELinux label what is installed: %v; try sudo restorecon %s", err, strings.Join(there, " "))
		}
	}
	if units && h.Exists("/run/systemd/system") && h.Exists(systemctl) {
		if err := h.Run(ctx, systemctl, "daemon-reload"); err != nil {
			warnf("cannot have systemd read its units again: %v; try sudo systemctl daemon-reload", err)
		}
	}
}

// unaware returns the libvirt daemon that has looked for hooks when there was none for qemu. It looks when it starts and when
// it is told to reload; once it has seen one, others count at once.
func (in *installation) unaware(h *hook.Host) *hook.Process {
	if h == nil {
		return nil
	}
	daemon, since := libvirtDaemon(h)
	if daemon == nil || in.Unaware != nil && *in.Unaware == *daemon {
		return in.Unaware
	}
	all, err := hooks(in.root)
	for _, name := range all {
		st, err := os.Lstat(in.path(name))
		if err == nil && changed(st).Before(since) {
			return nil
		}
	}
	if err != nil {
		return nil
	}
	return daemon
}

// overlooked says that libvirt's daemon may not know of the hook; "" if it does, or there is none.
func overlooked(h *hook.Host, o options) string {
	in, err := loadInstallation(o.root)
	if err != nil || in.Unaware == nil {
		return ""
	}
	if alive, err := in.Unaware.Alive(h.FS); !alive || err != nil {
		return ""
	}
	reports, _ := h.Reports()
	if st, err := os.Lstat(in.path(hookLink)); err != nil || slices.ContainsFunc(reports, func(r *hook.Report) bool {
		return r.Op == "prepare" && !r.ByHand && r.At.After(changed(st))
	}) {
		return ""
	}
	return fmt.Sprintf("%s (pid %d) is older than the hook, and has not called it: sudo systemctl reload %[1]s, unless that was done",
		daemonName(h, in.Unaware), in.Unaware.PID)
}

// changed is when a file was last changed in any way, so that it may be new; a copy can have an older time of its own.
func changed(st fs.FileInfo) time.Time {
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		return time.Unix(sys.Ctim.Unix())
	}
	return st.ModTime()
}

// libvirtDaemon returns the running daemon that calls hooks for qemu, and since when it runs; nil if there is none.
func libvirtDaemon(h *hook.Host) (*hook.Process, time.Time) {
	for _, file := range []string{"/run/virtqemud.pid", "/run/libvirtd.pid"} {
		v, err := h.Read(file)
		if err != nil {
			continue
		}
		pid, err := strconv.Atoi(v)
		if err != nil {
			continue
		}
		p, err := hook.LibvirtAncestor(h.FS, pid)
		if err != nil || p == nil || p.PID != pid {
			continue // the number is somebody else's by now
		}
		if since, err := h.StartTime(*p); err == nil {
			return p, since
		}
	}
	return nil, time.Time{}
}

func daemonName(h *hook.Host, p *hook.Process) string {
	if st, err := h.ProcessStat(p.PID); err == nil && strings.Contains(st.Comm, "virtqemud") {
		return "virtqemud"
	}
	return "libvirtd"
}
