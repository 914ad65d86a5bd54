package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"time"

	"github.com/coreos/go-systemd/v22/journal"
	"golang.org/x/sys/unix"

	"qemu-hook/hook"
	state "qemu-hook/journal"
	"qemu-hook/sysfs"
	"qemu-hook/systemd"
)

const (
	stateDir   = "/run/qemu-hook"
	configFile = "/etc/qemu-hook/config.toml"
)

func (o options) rootDir() string {
	if o.root == "" {
		return "/"
	}
	return o.root
}

// newHost returns the host under the root, with the default configuration.
func newHost(o options) (*hook.Host, error) {
	host, err := sysfs.New(o.rootDir())
	if err != nil {
		return nil, err
	}
	boot, err := host.Read("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, err
	}
	h := &hook.Host{
		FS:      host,
		Systemd: systemd.New(o.rootDir()),
		State:   state.Open(filepath.Join(o.rootDir(), stateDir), boot),
		Config:  hook.DefaultConfig(),
		Ledger:  &hook.Ledger{Guests: map[string]*hook.Guest{}},
		Now:     func() time.Time { return time.Now().UTC() },

		Confined: confined(),
	}
	if o.root == "" {
		h.Log = func(s hook.Severity, msg string) { journalLog(s, msg, h.Event) }
	}
	return h, nil
}

// confined reports whether this process was started with less than root's rights, as qemu-hook-recover.service starts it: that one
// may not gain any is the mark, as it goes with every such confinement of systemd's.
func confined() bool {
	set, err := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)
	return err == nil && set == 1
}

// journalLog sends a message to the journal; without one it is lost, as libvirt keeps nothing of a hook that succeeds.
func journalLog(s hook.Severity, msg string, about hook.LogFields) {
	_ = journal.Send(msg, journal.Priority(s), journalFields(about))
}

// reportMessage is the MESSAGE_ID by which the journal finds reports again.
const reportMessage = "5f2c6d0b8e9b4c6f9d6a0c1e7b3d4a92"

// sendReport has the journal keep a report: it outlives the reboot.
func sendReport(h *hook.Host, r *hook.Report) {
	if h.Log == nil {
		return
	}
	line, err := json.Marshal(r)
	if err != nil {
		return
	}
	fields := journalFields(h.Event)
	fields["MESSAGE_ID"], fields["QEMU_HOOK_REPORT"] = reportMessage, string(line)
	_ = journal.Send(r.Title(), journal.PriInfo, fields)
}

// journalFields are what journalctl can be asked for: journalctl QEMU_HOOK_GUEST=win11.
func journalFields(about hook.LogFields) map[string]string {
	fields := map[string]string{
		"SYSLOG_IDENTIFIER": "qemu-hook",
		"QEMU_HOOK_OP":      about.Op, "QEMU_HOOK_GUEST": about.Guest, "QEMU_HOOK_UUID": about.UUID,
	}
	maps.DeleteFunc(fields, func(_, v string) bool { return v == "" })
	return fields
}

// newWorker returns what starts a worker when the first slow write comes.
func newWorker(o options) func(*os.File) hook.SlowRunner {
	return func(lock *os.File) hook.SlowRunner { return &hook.Worker{Root: o.rootDir(), Lock: lock} }
}

// loadConfig reads the configuration: the file named by --config, else the host's own, which need not exist.
func loadConfig(h *hook.Host, o options) (*hook.Config, error) {
	if o.config == "" && (o.root == "" || os.Geteuid() == 0) {
		// Looked at before it is read: a FIFO in its place would hold up the guest, and whoever may take the file away decides
		// as much as whoever may write to it.
		if there, err := trustConfig(h); err != nil {
			return nil, err
		} else if !there {
			return hook.DefaultConfig(), nil
		}
	}
	name, data, err := configText(h.FS, o)
	switch {
	case errors.Is(err, fs.ErrNotExist) && o.config == "" && !h.Exists(configFile):
		return hook.DefaultConfig(), nil
	case err != nil:
		return nil, err
	}
	return hook.ParseConfig(name, data)
}

// configText returns the configuration's text, and the name by which errors call it.
func configText(host sysfs.FS, o options) (name string, data []byte, err error) {
	if o.config != "" {
		if data, err = readBounded(o.config); err != nil {
			err = fmt.Errorf("cannot read the configuration: %w", err)
		}
		return o.config, data, err
	}
	local, err := host.Local(configFile)
	if err == nil {
		data, err = readBounded(local)
	}
	if err != nil {
		err = &sysfs.Error{Op: "read", Path: configFile, Err: err}
	}
	return configFile, data, err
}

// readBounded reads as much of a file as a configuration may have, and a byte more, by which it is too long.
func readBounded(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, hook.MaxConfig+1))
}

// trustConfig refuses the host's configuration if others than root have a say in it, and reports whether there is one.
func trustConfig(h *hook.Host) (there bool, err error) {
	dir, err := h.Lstat(filepath.Dir(configFile))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	} else if err != nil {
		return false, &sysfs.Error{Op: "look at", Path: filepath.Dir(configFile), Err: err}
	}
	errs := hook.CheckOwnDir(dir, filepath.Dir(configFile))
	file, err := h.Lstat(configFile)
	switch {
	case err == nil:
		return true, errors.Join(errs, hook.CheckOwnFile(file, configFile))
	case errs != nil || errors.Is(err, fs.ErrNotExist):
		return false, errs
	}
	return false, &sysfs.Error{Op: "look at", Path: configFile, Err: err}
}

// checkProgram refuses to change the running host by a program that others than root can replace.
func checkProgram(h *hook.Host, o options) error {
	if o.root != "" {
		return nil
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("cannot tell where this program lies: %w", err)
	}
	dir, err := h.Lstat(filepath.Dir(self))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // removed meanwhile, as by an upgrade
	} else if err != nil {
		return &sysfs.Error{Op: "look at", Path: filepath.Dir(self), Err: err}
	}
	// The file that runs, whatever its name means by now.
	file, err := h.Stat("/proc/self/exe")
	if err != nil {
		return &sysfs.Error{Op: "look at", Path: self, Err: err}
	}
	return hook.CheckProgram(file, dir, self)
}
