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

// dropCopies comes before what is recorded is undone: all of it stands on the undo log by now, and what is struck there must not
// come back. A log that cannot be read may need them yet.
func (h *Host) dropCopies(uuid string) {
	g := h.Ledger.Guests[uuid]
	if g == nil || len(g.Copies) == 0 {
		return
	}
	if _, err := h.Recorded(uuid); err == nil {
		g.Copies = nil
		_ = h.SaveLedger() // which comes again, and says so then
	}
}

// Lost returns those changes of the guest that are made and of which its undo log says nothing any more, because somebody has
// emptied or removed it, or taken lines out of it. A function on its vfio driver, with our override, is the proof, of its own
// record and of those that are not a function's driver; without one a record that is not there is struck.
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
		if d, ok := c.(*PCIDriver); ok {
			there, err := h.unrecorded(uuid, d)
			if err != nil {
				return nil, nil, fmt.Errorf("cannot tell whether a record is gone from %s: %w", h.State.LogFile(uuid), err)
			}
			if !there {
				continue
			}
			proof = true
		}
		records, changes = append(records, r), append(changes, c)
	}
	if !proof {
		return nil, nil, nil
	}
	return records, changes, nil
}

// unrecorded reports whether a function is where a change without a record has brought it.
func (h *Host) unrecorded(uuid string, d *PCIDriver) (bool, error) {
	if d.From == d.To || h.Ledger.PCIOwner(d.Address, uuid) != nil {
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
			// The report of the event has not begun.
			h.restored = append(h.restored, h.DescribeLost(uuid, changes))
			h.log(Warning, h.restored[len(h.restored)-1])
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
	return fmt.Sprintf("somebody has emptied or cut %s; the next event, or qemu-hook recover, puts back from the ledger what is missing there: %s",
		h.State.LogFile(uuid), strings.Join(what, "; "))
}
