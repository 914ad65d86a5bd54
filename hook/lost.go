package hook

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"qemu-hook/journal"
)

// CopyRecords keeps what stands on the guest's undo log in the ledger, too. It is called once all of that is made, so that a
// function that stands as a copy says, without a record, is one whose record somebody has taken away.
func (h *Host) CopyRecords(uuid string) error {
	g := h.Ledger.Guests[uuid]
	records, err := h.State.Records(uuid)
	if g == nil || err != nil {
		return err
	}
	g.Copies = records
	return h.SaveLedger()
}

// Lost returns those changes of the guest that are made and of which its undo log says nothing any more, because somebody has
// emptied or removed it, or taken lines out of it. A function on its vfio driver, with our override, is the proof; without
// one a record that is not there is struck.
func (h *Host) Lost(uuid string) ([]Change, error) {
	_, changes, err := h.lost(uuid)
	return changes, err
}

func (h *Host) lost(uuid string) (records []journal.Record, changes []Change, err error) {
	g := h.Ledger.Guests[uuid]
	if g == nil || len(g.Copies) == 0 {
		return nil, nil, nil
	}
	recorded, err := h.recorded(uuid)
	var damage *journal.FileError
	if err != nil && (!errors.As(err, &damage) || damage.Line == 0) {
		return nil, nil, nil // what is the matter with a log that cannot be read is said by whoever needs it
	}
	proof := false
	for _, r := range g.Copies {
		c, err := decode(r)
		if err != nil || slices.ContainsFunc(recorded, func(o Change) bool { return sameSubject(o, c) }) {
			continue
		}
		records, changes = append(records, r), append(changes, c)
		if d, ok := c.(*PCIDriver); ok && !proof {
			if proof, err = h.unrecorded(uuid, d); err != nil {
				return nil, nil, fmt.Errorf("cannot tell whether a record is gone from %s: %w", h.State.LogFile(uuid), err)
			}
		}
	}
	if !proof {
		return nil, nil, nil
	}
	return records, changes, nil
}

// unrecorded reports whether a function is where a change without a record has brought it.
func (h *Host) unrecorded(uuid string, d *PCIDriver) (bool, error) {
	if d.From == d.To {
		return false, nil
	}
	driver, err := h.PCIDriver(d.Address)
	if err != nil || driver != d.To {
		return false, err
	}
	override, err := h.PCIOverride(d.Address)
	if err != nil || override != d.To || uuid == HandUUID {
		return err == nil && override == d.To, err
	}
	// It may be bound by hand since, and on record there.
	bound, err := h.HandBound()
	return !slices.Contains(bound, d.Address), err
}

// restoreLost puts back on record what undo logs have lost. Where that fails, [Host.Recorded] says so for the guest.
func (h *Host) restoreLost() {
	for uuid := range h.Ledger.Guests {
		records, changes, err := h.lost(uuid)
		if len(changes) > 0 {
			h.Logf(Warning, "%s", h.DescribeLost(uuid, changes))
		}
		for _, r := range records {
			err = errors.Join(err, h.State.Restore(uuid, r))
		}
		if err != nil {
			if h.unrestored == nil {
				h.unrestored = map[string]error{}
			}
			h.unrestored[uuid] = err
		}
	}
}

// DescribeLost says what an undo log has lost, and what becomes of it.
func (h *Host) DescribeLost(uuid string, lost []Change) string {
	var what []string
	for _, c := range lost {
		what = append(what, c.String())
	}
	return fmt.Sprintf("somebody has emptied or cut %s; what is missing there is taken from the ledger when the guest is released or recovered: %s",
		h.State.LogFile(uuid), strings.Join(what, "; "))
}
