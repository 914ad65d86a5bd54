package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"time"

	"github.com/coreos/go-systemd/v22/journal"

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
	}
	if o.root == "" {
		h.Log = func(s hook.Severity, msg string) { journalLog(s, msg, h.Event) }
	}
	return h, nil
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
	name, data, err := readConfig(h.FS, o)
	switch {
	case errors.Is(err, fs.ErrNotExist) && o.config == "":
		return hook.DefaultConfig(), nil
	case err != nil:
		return nil, err
	}
	if o.config == "" && (o.root == "" || os.Geteuid() == 0) {
		file, err := h.Lstat(configFile)
		if err != nil {
			return nil, &sysfs.Error{Op: "look at", Path: configFile, Err: err}
		}
		dir, err := h.Lstat(filepath.Dir(configFile))
		if err != nil {
			return nil, &sysfs.Error{Op: "look at", Path: filepath.Dir(configFile), Err: err}
		}
		if err := hook.CheckConfigOwner(file, dir, configFile); err != nil {
			return nil, err
		}
	}
	return hook.ParseConfig(name, data)
}

// readConfig returns the configuration's text and the name by which errors call it.
func readConfig(host sysfs.FS, o options) (name string, data []byte, err error) {
	if o.config != "" {
		if data, err = os.ReadFile(o.config); err != nil {
			err = fmt.Errorf("cannot read the configuration: %w", err)
		}
		return o.config, data, err
	}
	if data, err = host.ReadFile(configFile); err != nil {
		err = &sysfs.Error{Op: "read", Path: configFile, Err: err}
	}
	return configFile, data, err
}
