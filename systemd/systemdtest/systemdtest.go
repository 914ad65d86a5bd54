// Package systemdtest has a stand-in for systemd's side of D-Bus, on a real bus.
package systemdtest

import (
	"bufio"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"qemu-hook/cpuset"
	"qemu-hook/systemd"
	"qemu-hook/test/mode"
)

const (
	name     = "org.freedesktop.systemd1"
	root     = "/org/freedesktop/systemd1"
	unitRoot = root + "/unit"
	property = "AllowedCPUs"

	login     = "org.freedesktop.login1"
	loginRoot = "/org/freedesktop/login1"

	patience = 10 * time.Second // with the bus, to begin
)

// Never is the Result of a [systemd.JobError] for a job that does not end.
const Never = "never"

// A Stater is a manager that says more of a unit than whether it runs: its LoadState and ActiveState, and the number of
// the job that is queued for it, 0 for none.
type Stater interface {
	UnitState(ctx context.Context, unit string) (load, active string, job uint32, err error)
}

// A Resetter is a manager that is told of ResetFailedUnit.
type Resetter interface {
	ResetFailed(ctx context.Context, unit string) error
}

// Serve starts a bus of its own (dbus-daemon, which is to be installed) and answers on it as systemd and systemd-logind
// do, with what m says: the properties of units and their setting at runtime, jobs, services without a unit file, the
// system's state, the end of sessions, locks. m may be a [Stater] and a [Resetter] too. A [systemd.JobError] of m is how a job ends; any other error is the
// refusal of the call. Serve returns the bus' address, for DBUS_SYSTEM_BUS_ADDRESS. All ends with the test; m is not
// closed.
//
// Without dbus-daemon the test is skipped; it fails where QEMU_HOOK_CI is set.
func Serve(t testing.TB, m systemd.Manager) (address string) {
	t.Helper()
	address = Bus(t)
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	late := time.AfterFunc(patience, cancel)
	defer late.Stop()
	conn, err := dbus.Connect(address, dbus.WithContext(ctx), dbus.WithIncomingInterceptor(answeredByItself))
	if err != nil {
		t.Fatalf("cannot connect to the bus: %v", err)
	}
	t.Cleanup(func() { conn.Close() })
	s := &service{ctx: ctx, m: m, conns: []*dbus.Conn{conn}}
	err = s.export(conn)
	if err == nil {
		err = conn.ExportMethodTable(map[string]any{
			"TerminateSession": s.terminateSession,
			"Inhibit": func(msg dbus.Message, what, who, why, mode string) *dbus.Error {
				return s.inhibit(conn, msg, what, who, why, mode)
			},
		}, loginRoot, login+".Manager")
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{name, login} {
		if reply, err := conn.RequestName(name, dbus.NameFlagDoNotQueue); err != nil || reply != dbus.RequestNameReplyPrimaryOwner {
			t.Fatalf("cannot own %s on the bus: %v, %v", name, reply, err)
		}
	}
	return address
}

// Bus starts a bus with nobody on it and returns its address. It ends with the test.
func Bus(t testing.TB) (address string) {
	t.Helper()
	daemon, err := exec.LookPath("dbus-daemon")
	if err != nil {
		mode.Lacking(t, "dbus-daemon is missing: %v", err)
	}
	dir := socketDir(t)
	config := filepath.Join(dir, "bus.conf")
	if err := os.WriteFile(config, fmt.Appendf(nil, busConfig, dbus.EscapeBusAddressValue(filepath.Join(dir, "bus"))), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(daemon, "--config-file="+config, "--nofork", "--nopidfile", "--print-address=1")
	cmd.Stderr = t.Output()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("cannot start %s: %v", daemon, err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	got := make(chan string, 1)
	go func() {
		lines := bufio.NewScanner(out)
		lines.Scan()
		got <- lines.Text()
		_, _ = io.Copy(io.Discard, out)
	}()
	select {
	case address = <-got:
	case <-time.After(patience):
	}
	if address == "" {
		t.Fatalf("%s said no address within %v", daemon, patience)
	}
	return address
}

// socketDir is a directory whose path leaves room for a socket's: that is limited to 107 bytes.
func socketDir(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	if len(dir) < 90 {
		return dir
	}
	dir, err := os.MkdirTemp("", "bus")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

const busConfig = `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <listen>unix:path=%s</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow send_destination="*" eavesdrop="true"/>
    <allow eavesdrop="true"/>
    <allow own="*"/>
    <allow user="*"/>
  </policy>
</busconfig>
`

// service answers calls.
type service struct {
	ctx  context.Context
	m    systemd.Manager
	jobs atomic.Uint32

	mu    sync.Mutex
	conns []*dbus.Conn // that hear signals
}

// export makes systemd's objects answer on a connection.
func (s *service) export(conn *dbus.Conn) error {
	const properties = "org.freedesktop.DBus.Properties"
	for _, err := range []error{
		conn.ExportMethodTable(map[string]any{
			"SetUnitProperties":  s.setUnitProperties,
			"GetUnit":            s.getUnit,
			"LoadUnit":           s.getUnit,
			"StopUnit":           s.stopUnit,
			"StartUnit":          s.startUnit,
			"StartTransientUnit": s.startTransient,
			"ResetFailedUnit":    s.resetFailed,
		}, root, name+".Manager"),
		conn.ExportMethodTable(map[string]any{"Get": s.getManager}, root, properties),
		conn.ExportSubtreeMethodTable(map[string]any{"Get": s.get, "GetAll": s.getAll}, unitRoot, properties),
	} {
		if err != nil {
			return fmt.Errorf("cannot export systemd's objects: %w", err)
		}
	}
	return nil
}

// removed tells everybody that a job is no more.
func (s *service) removed(id uint32, unit, result string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, conn := range s.conns {
		_ = conn.Emit(root, name+".Manager.JobRemoved", id, jobPath(id), unit, result)
	}
}

// startUnit and stopUnit are those of org.freedesktop.systemd1.Manager.
func (s *service) startUnit(unit, mode string) (dbus.ObjectPath, *dbus.Error) {
	return s.job(unit, mode, s.m.StartUnit)
}

func (s *service) stopUnit(unit, mode string) (dbus.ObjectPath, *dbus.Error) {
	return s.job(unit, mode, s.m.StopUnit)
}

// job answers with a job's path and says by the signal JobRemoved how it ended. On its way through the bus the signal may
// be faster than the answer.
func (s *service) job(unit, mode string, do func(context.Context, string) error) (dbus.ObjectPath, *dbus.Error) {
	if mode != "replace" {
		return "", refusal("org.freedesktop.DBus.Error.InvalidArgs", "Job mode "+mode+" invalid.")
	}
	result := "done"
	if err := do(s.ctx, unit); err != nil {
		var failed *systemd.JobError
		if !errors.As(err, &failed) {
			return "", failure(err)
		}
		result = failed.Result
	}
	id := s.jobs.Add(1)
	if result != Never {
		go s.removed(id, unit, result)
	}
	return jobPath(id), nil
}

func jobPath(id uint32) dbus.ObjectPath {
	if id == 0 {
		return "/"
	}
	return dbus.ObjectPath(fmt.Sprintf("%s/job/%d", root, id))
}

// resetFailed is org.freedesktop.systemd1.Manager.ResetFailedUnit.
func (s *service) resetFailed(unit string) *dbus.Error {
	r, ok := s.m.(Resetter)
	if !ok {
		return nil
	}
	if err := r.ResetFailed(s.ctx, unit); err != nil {
		return failure(err)
	}
	return nil
}

// getManager is org.freedesktop.DBus.Properties.Get of the manager.
func (s *service) getManager(iface, prop string) (dbus.Variant, *dbus.Error) {
	if iface != name+".Manager" || prop != "SystemState" {
		return dbus.Variant{}, refusal("org.freedesktop.DBus.Error.UnknownProperty", "Unknown property or interface.")
	}
	state := "running"
	stopping, err := s.m.Stopping(s.ctx)
	if err != nil {
		return dbus.Variant{}, failure(err)
	}
	if stopping {
		state = "stopping"
	}
	return dbus.MakeVariant(state), nil
}

// terminateSession is org.freedesktop.login1.Manager.TerminateSession.
func (s *service) terminateSession(id string) *dbus.Error {
	if err := s.m.EndSession(s.ctx, id); err != nil {
		return failure(err)
	}
	return nil
}

// state is what the manager says of a unit.
func (s *service) state(unit string) (load, active string, job uint32, err error) {
	if m, ok := s.m.(Stater); ok {
		return m.UnitState(s.ctx, unit)
	}
	active = "inactive"
	runs, err := s.m.UnitRuns(s.ctx, unit)
	if runs {
		active = "active"
	}
	return "loaded", active, 0, err
}

// failure turns a manager's error into a reply.
func failure(err error) *dbus.Error {
	var reply dbus.Error
	if errors.As(err, &reply) {
		return &reply
	}
	var plain *systemd.ReplyError
	if errors.As(err, &plain) {
		return refusal(plain.Name, plain.Message+".")
	}
	return refusal("org.freedesktop.DBus.Error.Failed", err.Error())
}

func refusal(name, message string) *dbus.Error {
	return dbus.NewError(name, []any{message})
}

// setUnitProperties is org.freedesktop.systemd1.Manager.SetUnitProperties.
func (s *service) setUnitProperties(unit string, runtime bool, properties []struct {
	Name  string
	Value dbus.Variant
},
) *dbus.Error {
	if !runtime {
		return refusal("org.freedesktop.DBus.Error.NotSupported", "Only runtime properties are set here.")
	}
	for _, p := range properties {
		mask, ok := p.Value.Value().([]byte)
		switch {
		case p.Name != property:
			return refusal("org.freedesktop.DBus.Error.PropertyReadOnly", "Cannot set property "+p.Name+", or unknown property.")
		case !ok:
			return refusal("org.freedesktop.DBus.Error.InvalidArgs", "Incorrect type for property "+p.Name+".")
		}
		if err := s.m.SetAllowedCPUs(s.ctx, unit, cpuset.FromBytes(mask)); err != nil {
			return failure(err)
		}
	}
	return nil
}

// getUnit is GetUnit and LoadUnit of org.freedesktop.systemd1.Manager.
func (s *service) getUnit(unit string) (dbus.ObjectPath, *dbus.Error) {
	if _, err := s.m.AllowedCPUs(s.ctx, unit); err != nil {
		return "", failure(err)
	}
	return dbus.ObjectPath(unitRoot + "/" + escape(unit)), nil
}

// get is org.freedesktop.DBus.Properties.Get of a unit.
func (s *service) get(msg dbus.Message, iface, prop string) (dbus.Variant, *dbus.Error) {
	all, err := s.getAll(msg, iface)
	if err != nil {
		return dbus.Variant{}, err
	}
	v, ok := all[prop]
	if !ok {
		return v, refusal("org.freedesktop.DBus.Error.UnknownProperty", "Unknown property or interface.")
	}
	return v, nil
}

// getAll is org.freedesktop.DBus.Properties.GetAll of a unit.
func (s *service) getAll(msg dbus.Message, iface string) (map[string]dbus.Variant, *dbus.Error) {
	path, _ := msg.Headers[dbus.FieldPath].Value().(dbus.ObjectPath)
	unit, ok := unescape(strings.TrimPrefix(string(path), unitRoot+"/"))
	if !ok {
		return nil, refusal("org.freedesktop.DBus.Error.UnknownObject", "Unknown object '"+string(path)+"'.")
	}
	switch iface {
	case name + ".Unit":
		load, active, job, err := s.state(unit)
		if err != nil {
			return nil, failure(err)
		}
		return map[string]dbus.Variant{
			"Id":          dbus.MakeVariant(unit),
			"LoadState":   dbus.MakeVariant(load),
			"ActiveState": dbus.MakeVariant(active),
			"Job": dbus.MakeVariant(struct {
				ID   uint32
				Path dbus.ObjectPath
			}{job, jobPath(job)}),
		}, nil
	case name + "." + unitType(unit):
	default:
		return nil, refusal("org.freedesktop.DBus.Error.UnknownInterface", "Unknown interface "+iface+".")
	}
	cpus, err := s.m.AllowedCPUs(s.ctx, unit)
	if err != nil {
		return nil, failure(err)
	}
	return map[string]dbus.Variant{property: dbus.MakeVariant(append([]byte{}, cpus.Bytes()...))}, nil
}

// unitType is the last part of the interface that units of this kind have.
func unitType(unit string) string {
	suffix := strings.TrimPrefix(filepath.Ext(unit), ".")
	if suffix == "" {
		return ""
	}
	return strings.ToUpper(suffix[:1]) + suffix[1:]
}

// escape makes a unit's name an element of an object path, as systemd does.
func escape(unit string) string {
	var b strings.Builder
	for i, c := range []byte(unit) {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || i > 0 && c >= '0' && c <= '9' {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "_%02x", c)
		}
	}
	return b.String()
}

func unescape(element string) (string, bool) {
	var b strings.Builder
	for i := 0; i < len(element); i++ {
		c := element[i]
		if c == '_' {
			if i+2 >= len(element) {
				return "", false
			}
			code, err := hex.DecodeString(element[i+1 : i+3])
			if err != nil {
				return "", false
			}
			c, i = code[0], i+2
		}
		b.WriteByte(c)
	}
	return b.String(), b.Len() > 0
}
