package hook

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"

	"qemu-hook/sysfs"
	"qemu-hook/systemd"
	"qemu-hook/text"
)

const ownCommandKind = "command"

// freeMargin is for systemd to start a command, and to end one whose time is up.
const freeMargin = 10 * time.Second

// An OwnCommand runs a program of the administrator's before a guest is prepared, and another one after it was given back. They
// are given no shell, and the guest's name, its UUID and the operation in the environment.
type OwnCommand struct {
	Before   []string      `json:"before,omitempty"` // path and arguments
	After    []string      `json:"after,omitempty"`
	Deadline time.Duration `json:"deadline"` // of each
	Guest    string        `json:"guest"`
	UUID     string        `json:"uuid"`
	// Done says that Before has run.
	Done bool `json:"done,omitempty"`
}

func (c *OwnCommand) Kind() string { return ownCommandKind }

func (c *OwnCommand) Subject() string {
	return strings.Join(c.Before, " ") + " | " + strings.Join(c.After, " ")
}

func (c *OwnCommand) Target() string { return "run" }

func (c *OwnCommand) String() string {
	var s []string
	if len(c.Before) > 0 {
		s = append(s, strings.Join(c.Before, " ")+" before all else")
	}
	if len(c.After) > 0 {
		s = append(s, strings.Join(c.After, " ")+" when all is given back")
	}
	return "run " + strings.Join(s, ", ")
}

// Do runs Before, once: a preparation that is completed does not run it again.
func (c *OwnCommand) Do(ctx context.Context, h *Host) error {
	if c.Done || len(c.Before) == 0 {
		return nil
	}
	if err := c.run(ctx, h, c.Before, "prepare"); err != nil {
		return err
	}
	c.Done = true
	return h.amend(c)
}

func (c *OwnCommand) Verify(*Host) error { return nil }

// Undo runs After. However that ends, it has run: a program that always fails must not keep its guest from ever being prepared
// again. One that this process does not live to see the end of runs again, and so does one that systemd could not be asked to run.
func (c *OwnCommand) Undo(ctx context.Context, h *Host) error {
	if len(c.After) == 0 {
		return nil
	}
	err := c.run(ctx, h, c.After, "release")
	var unasked *unaskedError
	if errors.As(err, &unasked) {
		return err
	}
	if err != nil {
		h.Logf(Warning, "%v", err)
	}
	return nil
}

// An unaskedError says why systemd has not run a command at all.
type unaskedError struct{ error }

func (e *unaskedError) Unwrap() error { return e.error }

func (c *OwnCommand) run(ctx context.Context, h *Host, command []string, operation string) error {
	if why := h.UntrustedProgram(command[0]); why != "" {
		return fmt.Errorf("cannot run %s for %s: %s", command[0], c.Guest, why)
	}
	env := []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/run/current-system/sw/bin", "LC_ALL=C.UTF-8",
		"QEMU_HOOK_GUEST=" + c.Guest, "QEMU_HOOK_UUID=" + c.UUID, "QEMU_HOOK_OPERATION=" + operation,
	}
	unit := c.unit(command, operation)
	if h.bySystemd(ctx, unit) {
		return c.runFree(ctx, h, command, unit, env)
	}
	ctx, cancel := context.WithTimeout(ctx, c.Deadline)
	defer cancel()
	out, err := h.Execute(ctx, sysfs.Program{
		Path: command[0], Args: command[1:], Stderr: true, Env: env,
	})
	said := lastLine(string(out))
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%s for %s has not ended within its deadline of %s and was killed", command[0], c.Guest, c.Deadline)
	case err != nil && said != "":
		return fmt.Errorf("%s for %s failed: %s", command[0], c.Guest, said)
	case err != nil:
		return fmt.Errorf("cannot run %s for %s: %w", command[0], c.Guest, err)
	}
	h.Logf(Info, "%s has run for %s", command[0], c.Guest)
	return nil
}

// unit is the name of the unit that a command is run as, if it is systemd that runs it.
func (c *OwnCommand) unit(command []string, operation string) string {
	sum := crc32.ChecksumIEEE([]byte(operation + "\x00" + strings.Join(command, "\x00")))
	return fmt.Sprintf("qemu-hook-run-%s-%08x.service", c.UUID, sum)
}

// bySystemd reports whether systemd is to run a command: this process may do less than root, or the command is at work still as that
// unit, as the confined process that waited for it was killed. It is waited for then, and not run beside itself.
func (h *Host) bySystemd(ctx context.Context, unit string) bool {
	there, err := h.HasSystemd()
	if h.Confined || !there || h.Systemd == nil {
		return h.Confined && (there || err != nil)
	}
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	runs, err := h.Systemd.UnitRuns(ctx, unit)
	return runs && err == nil
}

// runFree has systemd run a command, without the confinement of this process.
func (c *OwnCommand) runFree(ctx context.Context, h *Host, command []string, unit string, env []string) error {
	ctx, cancel := context.WithTimeout(ctx, c.Deadline+freeMargin)
	defer cancel()
	err := h.Systemd.StartTransient(ctx, systemd.Transient{
		Name: unit, Description: fmt.Sprintf("%s for guest %s", command[0], c.Guest), Exec: command, Environment: env, Within: c.Deadline,
	})
	var failed *systemd.JobError
	switch {
	case errors.As(err, &failed):
		return fmt.Errorf("%s for %s failed, or has not ended within its deadline of %s; see journalctl -u %s", command[0], c.Guest, c.Deadline, unit)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("systemd has not said in time what became of %s for %s; see journalctl -u %s", command[0], c.Guest, unit)
	case err != nil:
		return &unaskedError{fmt.Errorf("cannot have systemd run %s for %s: %w", command[0], c.Guest, err)}
	}
	h.Logf(Info, "%s has run for %s", command[0], c.Guest)
	return nil
}

// lastLine returns the last line of a program's output that says anything, fit for a message.
func lastLine(out string) string {
	const most = 120
	for _, line := range slices.Backward(strings.Split(out, "\n")) {
		if line = strings.TrimSpace(text.Line(line)); line != "" {
			return text.Short(line, most)
		}
	}
	return ""
}

// UntrustedProgram says why a program is not to be run as root, "" if nothing speaks against it: it, or a folder on the way to it, is
// not root's alone. In a folder that is sticky others cannot take away what is root's.
func (h *Host) UntrustedProgram(file string) string {
	for dir := path.Dir(file); ; dir = path.Dir(dir) {
		st, err := h.Stat(dir)
		switch {
		case err != nil:
			return (&sysfs.Error{Op: "look at", Path: dir, Err: err}).Error()
		case st.UID != 0:
			return fmt.Sprintf("its folder %s belongs to user %s, who could change it", dir, h.UserName(st.UID))
		case st.Perm()&0o022 != 0 && st.Perm()&syscall.S_ISVTX == 0:
			return fmt.Sprintf("others can write to its folder %s (mode %04o)", dir, st.Perm())
		}
		if dir == "/" {
			break
		}
	}
	st, err := h.Stat(file)
	switch {
	case err != nil:
		return (&sysfs.Error{Op: "look at", Path: file, Err: err}).Error()
	case st.Type() != syscall.S_IFREG:
		return "it is no regular file"
	case st.UID != 0:
		return fmt.Sprintf("it belongs to user %s, who could change it; chown root %s", h.UserName(st.UID), file)
	case st.Perm()&0o022 != 0:
		return fmt.Sprintf("others can write to it (mode %04o); chmod go-w %s", st.Perm(), file)
	case st.Perm()&0o111 == 0:
		return fmt.Sprintf("it is not executable; chmod +x %s", file)
	}
	return ""
}
