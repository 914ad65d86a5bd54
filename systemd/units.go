package systemd

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/godbus/dbus/v5"
)

// What systemd and logind answer when they do not know a unit or session.
const (
	noSuchUnit    = "org.freedesktop.systemd1.NoSuchUnit"
	noSuchSession = "org.freedesktop.login1.NoSuchSession"
)

// A JobError says that the job of stopping or starting a unit did not end well.
type JobError struct {
	Verb, Unit string
	Result     string // "failed", "timeout", "canceled", "dependency", …: org.freedesktop.systemd1(5), JobRemoved
}

func (e *JobError) Error() string {
	return fmt.Sprintf("cannot %s %s: its job ended as %s; see systemctl status %[2]s", e.Verb, e.Unit, e.Result)
}

// UnitRuns implements [Manager]. It asks for two properties, as systemd has a hundred more to say of a unit. That no job is
// queued counts if the unit does not run after that either: it may have ended in between.
func (m *manager) UnitRuns(ctx context.Context, unit string) (runs bool, err error) {
	if err = checkName(unit); err == nil {
		err = m.do(ctx, func(c *connection) error {
			for _, ask := range []func(context.Context, *connection, string) (bool, error){active, queued, active} {
				if runs, err = ask(ctx, c, unit); err != nil || runs {
					return err
				}
			}
			return nil
		})
	}
	if answers(err, noSuchUnit) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("cannot tell over D-Bus whether %s runs: %w", unit, err)
	}
	return runs, nil
}

// active reports whether a unit is active, or on its way there or away from there.
func active(ctx context.Context, c *connection, unit string) (bool, error) {
	p, err := c.GetUnitPropertyContext(ctx, unit, "ActiveState")
	if err != nil {
		return false, err
	}
	state, ok := p.Value.Value().(string)
	if !ok {
		return false, errors.New("it has no ActiveState")
	}
	switch state {
	case "inactive", "failed", "maintenance": // one that has no file, LoadState not-found, is inactive
		return false, nil
	}
	// What a later systemd may call its states counts as running.
	return true, nil
}

// queued reports whether the property Job, (uo), names one: the unit is to start at any moment.
func queued(ctx context.Context, c *connection, unit string) (bool, error) {
	p, err := c.GetUnitPropertyContext(ctx, unit, "Job")
	if err != nil {
		return false, err
	}
	f, _ := p.Value.Value().([]any)
	if len(f) == 0 {
		return false, nil
	}
	id, _ := f[0].(uint32)
	return id != 0, nil
}

// StopUnit implements [Manager].
func (m *manager) StopUnit(ctx context.Context, unit string) error {
	err := m.job(ctx, "stop", unit, func(c *connection, done chan<- string) error {
		_, err := c.StopUnitContext(ctx, unit, "replace", done)
		return err
	}, "done", "skipped")
	if answers(err, noSuchUnit) {
		return nil
	}
	return err
}

// StartUnit implements [Manager].
func (m *manager) StartUnit(ctx context.Context, unit string) error {
	// systemd does not start a service again that failed too often in a row, until its failures are forgotten. Where it
	// has none to forget, or refuses, it is the start that says what is wrong.
	var refusal *ReplyError
	err := checkName(unit)
	if err == nil {
		err = m.do(ctx, func(c *connection) error { return c.ResetFailedUnitContext(ctx, unit) })
	}
	if err != nil && !errors.As(err, &refusal) {
		return fmt.Errorf("cannot start %s: %w", unit, err)
	}
	return m.job(ctx, "start", unit, func(c *connection, done chan<- string) error {
		_, err := c.StartUnitContext(ctx, unit, "replace", done)
		return err
	}, "done")
}

// job has systemd begin a job and waits for its end. A connection that breaks meanwhile brings no result any more: the
// job is begun again, which systemd makes one with that which is under way.
func (m *manager) job(
	ctx context.Context, verb, unit string, begin func(*connection, chan<- string) error, good ...string,
) error {
	result, begun := "", false
	err := checkName(unit)
	if err == nil {
		err = m.do(ctx, func(c *connection) error {
			done := make(chan string, 1)
			if err := begin(c, done); err != nil {
				return err
			}
			begun = true
			select {
			case result = <-done:
				return nil
			case <-c.gone:
				return errors.New("nothing was heard of the job")
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	}
	switch {
	case err != nil && begun && ctx.Err() != nil:
		return fmt.Errorf("cannot %s %s: its job has not ended in time: %w", verb, unit, err)
	case err != nil:
		return fmt.Errorf("cannot %s %s: %w", verb, unit, err)
	case !slices.Contains(good, result):
		return &JobError{verb, unit, result}
	}
	return nil
}

// Stopping implements [Manager].
func (m *manager) Stopping(ctx context.Context) (bool, error) {
	state := ""
	err := m.do(ctx, func(c *connection) error {
		p, err := c.SystemStateContext(ctx)
		if err == nil {
			state, _ = p.Value.Value().(string)
		}
		return err
	})
	if err != nil {
		return false, fmt.Errorf("cannot read SystemState over D-Bus: %w", err)
	}
	return state == "stopping", nil
}

// EndSession implements [Manager].
func (m *manager) EndSession(ctx context.Context, id string) error {
	var err error
	switch id {
	case "", "self", "auto":
		err = errors.New("logind takes that for the caller's own")
	default:
		err = m.logind(ctx, func(logind dbus.BusObject) error {
			return logind.CallWithContext(ctx, "org.freedesktop.login1.Manager.TerminateSession", 0, id).Err
		})
	}
	if err == nil || answers(err, noSuchSession) {
		return nil
	}
	return fmt.Errorf("cannot end session %s: %w", id, err)
}

// checkName checks the end of a unit's name, as systemd says of a wrong one only that it is not valid.
func checkName(unit string) error {
	kinds := []string{".service", ".target", ".socket", ".timer", ".path", ".scope", ".slice", ".mount"}
	if kind := path.Ext(unit); kind == unit || !slices.Contains(kinds, kind) {
		return errors.New("the name of a unit that can be stopped ends in " + strings.Join(kinds, ", "))
	}
	return nil
}

// answers reports whether an error is this answer of systemd or logind.
func answers(err error, name string) bool {
	var reply *ReplyError
	return errors.As(err, &reply) && reply.Name == name
}
