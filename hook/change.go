package hook

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"qemu-hook/journal"
)

// A Change is one reversible write to something a single guest owns. It is data: the process that made it is gone
// when it is undone, and may have been of another version.
type Change interface {
	// Kind is the change's name in the undo log, stable for ever.
	Kind() string
	// Subject is what is changed: a PCI address, a path. No guest has two changes of one kind and subject.
	Subject() string
	// Target is the state that the change brings about, as a word to compare.
	Target() string
	// String says what is done, for people: "0000:01:00.0: driver nvidia → vfio-pci".
	String() string
	// Do makes the change, after it was recorded. Done again, it completes what is missing.
	Do(ctx context.Context, h *Host) error
	// Verify reports what is no longer as the change set it.
	Verify(h *Host) error
	// Undo puts back what the change found, however far Do came, again and again without harm. Where the value is
	// neither ours nor the old one, it is left alone and the error is ErrDrifted.
	Undo(ctx context.Context, h *Host) error
}

// ErrDrifted says that somebody else changed what a change had set.
var ErrDrifted = errors.New("changed by somebody else meanwhile, left as it is")

// undoTimeout bounds the undo of one change, so that one that hangs keeps none of the others.
const undoTimeout = 4 * time.Minute

// decode returns the change that a record holds: the table of kinds.
func decode(r journal.Record) (Change, error) {
	var c Change
	switch r.Kind {
	case pciDriverKind:
		c = new(PCIDriver)
	case pciPowerKind:
		c = new(PCIPower)
	case persistenceKind:
		c = new(Persistence)
	case shmFileKind:
		c = new(ShmFile)
	case ownCommandKind:
		c = new(OwnCommand)
	default:
		return nil, fmt.Errorf("cannot undo a change of kind %q: this version does not know it; "+
			"use the version that made it", r.Kind)
	}
	if err := journal.DecodeKnown(r.Data, c); err != nil {
		return nil, fmt.Errorf("cannot read the record of a change of kind %q: %w; use the version that made it", r.Kind, err)
	}
	return c, nil
}

// An aimer is a change that has a first part, which is done for all changes before any of them is made.
type aimer interface {
	Aim(ctx context.Context, h *Host) error
}

// Make makes the changes in order, all of them recorded for the guest before the first. One that is on record already, as
// the guest is prepared a second time, is completed as it was recorded.
func (h *Host) Make(ctx context.Context, uuid string, changes []Change) error {
	records, err := h.State.Records(uuid)
	if err != nil {
		return err
	}
	changes = slices.Clone(changes)
	seqs := make([]int, len(changes))
	for i, c := range changes {
		seqs[i] = -1
		for _, r := range records {
			if old, err := decode(r); err == nil && sameSubject(old, c) {
				seqs[i], changes[i] = r.Seq, old
			}
		}
		if seqs[i] < 0 {
			if seqs[i], err = h.State.Append(uuid, c.Kind(), c); err != nil {
				return err
			}
		}
	}
	for i, c := range changes {
		if a, ok := c.(aimer); ok {
			if err := h.do(ctx, uuid, seqs[i], c, a.Aim); err != nil {
				return err
			}
		}
	}
	for i, c := range changes {
		err := h.do(ctx, uuid, seqs[i], c, func(ctx context.Context, h *Host) error {
			err := c.Do(ctx, h)
			if err == nil {
				h.Logf(Info, "%s", c)
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (h *Host) do(ctx context.Context, uuid string, seq int, c Change, do func(context.Context, *Host) error) (err error) {
	if err := context.Cause(ctx); err != nil {
		return fmt.Errorf("interrupted before %s: %w", c, err)
	}
	h.amend = func(c Change) error { return h.State.Amend(uuid, seq, c) }
	defer func() { h.amend = nil }()
	end := h.Begin(stepOf(c))
	defer func() { end(err) }()
	h.Doing("%s", c)
	return do(ctx, h)
}

// stepOf names the step that a change is of.
func stepOf(c Change) string {
	switch c.Kind() {
	case shmFileKind:
		return "shm"
	case ownCommandKind:
		return "run"
	}
	return "pci"
}

// Recorded returns the changes on the guest's undo log, oldest first. Records that cannot be read are in the error;
// the others are returned all the same.
func (h *Host) Recorded(uuid string) ([]Change, error) {
	changes, err := h.recorded(uuid)
	return changes, errors.Join(err, h.unrestored[uuid])
}

func (h *Host) recorded(uuid string) ([]Change, error) {
	if h.State == nil || uuid == "" {
		return nil, nil
	}
	records, err := h.State.Records(uuid)
	var changes []Change
	for _, r := range records {
		c, derr := decode(r)
		if derr != nil {
			err = errors.Join(err, derr)
			continue
		}
		changes = append(changes, c)
	}
	return changes, err
}

// RecordedDrivers returns those of the guest's recorded changes that moved a function from its driver, as [Host.Recorded]
// does.
func (h *Host) RecordedDrivers(uuid string) ([]*PCIDriver, error) {
	changes, err := h.Recorded(uuid)
	var drivers []*PCIDriver
	for _, c := range changes {
		if d, ok := c.(*PCIDriver); ok {
			drivers = append(drivers, d)
		}
	}
	return drivers, err
}

func sameSubject(a, b Change) bool { return a.Kind() == b.Kind() && a.Subject() == b.Subject() }

// UndoAll undoes the guest's recorded changes, the last one first, but for those that keep says to keep (nil keeps
// none). A change that cannot be undone stays on record, and the others are undone all the same. Left says what drifted and was left alone.
func (h *Host) UndoAll(ctx context.Context, uuid string, keep func(Change) bool) (left []string, err error) {
	h.undoing = uuid
	defer func() { h.undoing = "" }()
	records, err := h.State.Records(uuid)
	for _, r := range slices.Backward(records) {
		c, derr := decode(r)
		if derr != nil {
			err = errors.Join(err, derr)
			continue
		}
		if keep != nil && keep(c) {
			continue
		}
		if owner := h.Ledger.PCIOwner(c.Subject(), uuid); owner != nil {
			// Whatever this record is from, QEMU may have the function.
			err = errors.Join(err, fmt.Errorf("%s is taken by guest %s, and what stands on record of it for %s waits until that is gone; then: qemu-hook recover %s",
				h.FormatPCI(c.Subject()), owner.Name, h.nameOf(uuid), QuoteName(h.nameOf(uuid))))
			continue
		}
		switch uerr := h.undo(ctx, c); {
		case errors.Is(uerr, ErrDrifted):
			left = append(left, fmt.Sprintf("%s: %v", c.Subject(), uerr))
		case uerr != nil:
			err = errors.Join(err, uerr)
			continue
		}
		err = errors.Join(err, h.State.Strike(uuid, r.Seq))
	}
	return left, err
}

// nameOf returns a guest's name, its UUID if it is not on record.
func (h *Host) nameOf(uuid string) string {
	if g := h.Ledger.Guests[uuid]; g != nil && g.Name != "" {
		return g.Name
	}
	return uuid
}

func (h *Host) undo(ctx context.Context, c Change) error {
	ctx, cancel := context.WithTimeout(ctx, undoTimeout)
	defer cancel()
	end := h.Begin(stepOf(c))
	h.Doing("undoing: %s", c)
	err := c.Undo(ctx, h)
	switch {
	case err == nil:
		h.Logf(Info, "undone: %s", c)
	case errors.Is(err, ErrDrifted):
		h.Logf(Warning, "%s: %v", c.Subject(), err)
		end(nil) // to leave it is right
		return err
	}
	end(err)
	return err
}

// SameChange reports whether two changes bring the same thing to the same state.
func SameChange(a, b Change) bool { return sameSubject(a, b) && a.Target() == b.Target() }
