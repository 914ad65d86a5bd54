package systemd_test

import (
	"context"
	"io"
	"strings"

	"github.com/godbus/dbus/v5"

	"qemu-hook/systemd"
	"qemu-hook/systemd/systemdtest"
)

// transientFake is what the fake has of services without a unit file, and of locks.
type transientFake struct {
	made  []systemd.Transient
	locks []string
}

func (f *fake) StartTransient(ctx context.Context, u systemd.Transient) error {
	if err := f.note(ctx, "transient "+u.Name); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.results) > 0 {
		result := f.results[0]
		f.results = f.results[1:]
		if result != systemdtest.Never {
			return &systemd.JobError{Result: result}
		}
		f.made = append(f.made, u)
		return &systemd.JobError{Result: result}
	}
	for _, other := range f.made {
		if other.Name == u.Name {
			return *dbus.NewError("org.freedesktop.systemd1.UnitExists", []any{"Unit " + u.Name + " was already loaded or has a fragment file."})
		}
	}
	f.made = append(f.made, u)
	return nil
}

func (f *fake) Inhibit(ctx context.Context, what, who, why string) (io.Closer, error) {
	if err := f.note(ctx, "inhibit "+what); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.locks = append(f.locks, strings.Join([]string{what, who, why}, "|"))
	return &fakeLock{f}, nil
}

type fakeLock struct{ f *fake }

func (l *fakeLock) Close() error {
	l.f.mu.Lock()
	defer l.f.mu.Unlock()
	l.f.locks = l.f.locks[1:]
	return nil
}
