package hook

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"

	"qemu-hook/cpuset"
	"qemu-hook/systemd"
)

// A UnitBaseline is how a slice or scope limited its CPUs before the first claim.
type UnitBaseline struct {
	// Systemd says that systemd sets the limit; else the cgroup's own file does.
	Systemd bool `json:"systemd,omitempty"`
	// Allowed is the limit: AllowedCPUs over D-Bus, else cpuset.cpus; empty for none.
	Allowed cpuset.Set `json:"allowed"`
	// Cgroup is cpuset.cpus as it read, nil where the cgroup had no such file.
	Cgroup *string `json:"cgroup,omitempty"`
	// NewDropIn is the topmost of the drop-in's path that was not there, "" if all was.
	NewDropIn string `json:"new_drop_in,omitempty"`
	// Next is what the unit was given last, or is being given; Settled what it had been given before that.
	Settled cpuset.Set `json:"settled,omitzero"`
	Next    cpuset.Set `json:"next,omitzero"`
}

// Expected is what the unit is limited to as far as this program knows: what it was given last, or else had before.
func (b *UnitBaseline) Expected() cpuset.Set {
	if b.Next.Empty() {
		return b.Allowed
	}
	return b.Next
}

// settleTimeout bounds one unit's settling, the kernel's following included.
const settleTimeout = 5 * time.Second

// HostCPUs returns the CPUs that the host keeps when the claims leave it those of claimed: `cpus.host` if the
// configuration says so outright, else those online. CPUs that the kernel isolates are never the host's to use.
func (h *Host) HostCPUs(claimed cpuset.Set) (cpuset.Set, error) {
	online, err := h.OnlineCPUs()
	if err != nil {
		return cpuset.Set{}, err
	}
	if !claimed.Empty() && !h.Config.CPUs.Host.Empty() {
		return h.Config.CPUs.Host.Intersect(online), nil
	}
	isolated, err := h.IsolatedCPUs()
	if err != nil {
		return cpuset.Set{}, err
	}
	return online.Minus(isolated).Minus(claimed), nil
}

// SettleCPUs gives the host's slices and scopes the CPUs that the claims leave, or what they had before when no
// claim is left. Units that cannot be settled are in the error; the others are settled all the same.
//
// Settled are the units that were narrowed before, and those named: a preparation names the configuration's. Of the others
// one that somebody else has set meanwhile is left so, which is no error.
func (h *Host) SettleCPUs(ctx context.Context, units ...string) error {
	claimed := h.Ledger.Claims("").CPUs
	if claimed.Empty() {
		return h.restoreUnits(ctx)
	}
	host, err := h.HostCPUs(claimed)
	if err != nil {
		return err
	}
	if host.Empty() {
		return fmt.Errorf("cannot keep the host off CPUs %s: none would be left for it", claimed)
	}
	return h.narrow(ctx, units, host)
}

// Confine keeps a guest that has started off the CPUs that others have to themselves.
func (h *Host) Confine(ctx context.Context, uuid, name string) error {
	scope, err := h.guestScope(uuid, name)
	if err != nil || scope == "" || h.Ledger.Claims("").CPUs.Empty() {
		return err
	}
	return h.SettleCPUs(ctx, scope)
}

// Unpinned returns the scopes of guests that run and have no vCPU pinned.
func (h *Host) Unpinned() ([]string, error) {
	guests, err := h.GuestCgroups()
	if err != nil {
		return nil, err
	}
	var scopes []string
	for _, g := range guests {
		if g.Pinned.Empty() {
			scopes = append(scopes, g.Scope)
		}
	}
	return scopes, nil
}

// A narrowing is a unit on its way to the CPUs that the host keeps.
type narrowing struct {
	unit string
	base *UnitBaseline
	want cpuset.Set
	done bool // it has them
}

// narrow limits the units named, and those on record, to the host's CPUs. All is looked at and recorded first, then all is
// set, then all is read back: the ledger is written once, and the units settle side by side.
func (h *Host) narrow(ctx context.Context, named []string, host cpuset.Set) error {
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	var errs error
	names := slices.Clone(named)
	fail := func(unit string, err error) {
		switch {
		case err == nil:
		case errors.Is(err, ErrDrifted) && !slices.Contains(named, unit):
			h.Logf(Warning, "%s: %v", unit, err)
		default:
			errs = errors.Join(errs, fmt.Errorf("cannot keep %s on CPUs %s: %w", unit, host, err))
		}
	}
	for _, unit := range sortedKeys(h.Ledger.Units) {
		if !slices.Contains(named, unit) {
			names = append(names, unit)
		}
	}
	var units []narrowing
	all, err := h.HostCPUs(cpuset.Set{})
	if err != nil {
		return err
	}
	for _, unit := range names {
		n, err := h.planNarrow(ctx, unit, host, all)
		if systemd.Gone(err) {
			delete(h.Ledger.Units, unit) // a guest's scope, with its guest
			continue
		}
		if err != nil {
			fail(unit, err)
			continue
		}
		units = append(units, n)
	}
	if slices.ContainsFunc(units, func(n narrowing) bool { return !n.done }) {
		if err := h.SaveLedger(); err != nil {
			return errors.Join(errs, err)
		}
	}
	for _, n := range units {
		err := error(nil)
		if !n.done {
			err = h.setUnitCPUs(ctx, n.unit, n.base.Systemd, n.want)
		}
		if err == nil {
			err = h.waitEffective(ctx, n.unit, n.want)
		}
		fail(n.unit, err)
	}
	return errs
}

// planNarrow looks what a unit has and shall have: the host's CPUs, within what it was limited to before.
func (h *Host) planNarrow(ctx context.Context, unit string, host, all cpuset.Set) (narrowing, error) {
	b, err := h.unitBaseline(ctx, unit)
	if err != nil {
		return narrowing{}, err
	}
	n := narrowing{unit: unit, base: b, want: host}
	if within := host.Intersect(b.Allowed); !within.Empty() {
		n.want = within
	}
	now, err := h.UnitCPUs(ctx, unit, b.Systemd)
	if err != nil {
		return narrowing{}, err
	}
	if now.Equal(b.Next) {
		b.Settled = now
	}
	if n.done = now.Equal(n.want); n.done {
		return n, nil
	}
	// All CPUs are what a process that was killed while it lifted the limit had come to.
	if b.drifted(now) && !now.Equal(all) {
		return narrowing{}, fmt.Errorf("%w: its CPUs are %q", ErrDrifted, now)
	}
	b.Next = n.want
	return n, nil
}

// drifted reports whether a value is none that the unit had before or was given.
func (b *UnitBaseline) drifted(now cpuset.Set) bool {
	return !now.Equal(b.Allowed) && !now.Equal(b.Settled) && !now.Equal(b.Next)
}

// unitBaseline returns the unit's baseline, taken now if the unit is touched for the first time.
func (h *Host) unitBaseline(ctx context.Context, unit string) (*UnitBaseline, error) {
	if b := h.Ledger.Units[unit]; b != nil {
		return b, nil
	}
	if err := h.CPUControl(); err != nil {
		return nil, err
	}
	b := &UnitBaseline{}
	var err error
	if b.Systemd, err = h.HasSystemd(); err != nil {
		return nil, err
	}
	name, err := h.CgroupCPUs(unit)
	switch {
	case err != nil:
		return nil, err
	case name != "":
		v, err := h.Read(name)
		if err != nil {
			return nil, err
		}
		b.Cgroup = &v
	case !b.Systemd:
		return nil, errors.New("there is no systemd, and its cgroup has no cpuset.cpus")
	}
	if b.Allowed, err = h.UnitCPUs(ctx, unit, b.Systemd); err != nil {
		return nil, err
	}
	if b.Systemd {
		for dir := dropIn(unit); ; dir = path.Dir(dir) {
			there, err := h.Has(dir)
			if err != nil {
				return nil, err
			}
			if there && !h.Ledger.newDropIn(dir) {
				break
			}
			b.NewDropIn = dir
		}
	}
	if h.Ledger.Units == nil {
		h.Ledger.Units = map[string]*UnitBaseline{}
	}
	h.Ledger.Units[unit] = b
	return b, nil
}

// newDropIn reports whether the folder was not there before the first claim: whichever unit is restored last removes it.
func (l *Ledger) newDropIn(dir string) bool {
	for _, b := range l.Units {
		if b.NewDropIn == dir {
			return true
		}
	}
	return false
}

// dropIn is where systemd keeps a property that was set at runtime: for transient units, and a scope is always one,
// beside the unit itself (unit_drop_in_dir in systemd's unit.c).
func dropIn(unit string) string {
	dir := "/run/systemd/system.control/"
	if strings.HasSuffix(unit, ".scope") {
		dir = "/run/systemd/transient/"
	}
	return dir + unit + ".d/50-AllowedCPUs.conf"
}

// UnitCPUs returns the CPUs that the unit is limited to now, empty for no limit.
func (h *Host) UnitCPUs(ctx context.Context, unit string, bySystemd bool) (cpuset.Set, error) {
	if bySystemd {
		return h.Systemd.AllowedCPUs(ctx, unit)
	}
	name, err := h.CgroupCPUs(unit)
	if err != nil || name == "" {
		return cpuset.Set{}, err
	}
	v, err := h.Read(name)
	if err != nil {
		return cpuset.Set{}, err
	}
	return cpuset.ParseList(v)
}

func (h *Host) setUnitCPUs(ctx context.Context, unit string, bySystemd bool, cpus cpuset.Set) error {
	if bySystemd {
		return h.Systemd.SetAllowedCPUs(ctx, unit, cpus)
	}
	name, err := h.CgroupCPUs(unit)
	if err != nil || name == "" {
		return err
	}
	return h.Write(name, cpus.String())
}

// waitEffective waits until the kernel keeps the unit within the CPUs: systemd answers before it writes.
func (h *Host) waitEffective(ctx context.Context, unit string, want cpuset.Set) error {
	var now cpuset.Set
	err := poll(ctx, func() (bool, error) {
		var ok bool
		var err error
		now, ok, err = h.EffectiveCPUs(unit)
		return err != nil || ok && now.Minus(want).Empty(), err
	})
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("it was given CPUs %s but its cpuset.cpus.effective is %q; something else sets it", want, now)
	}
	return err
}

// restoreUnits puts every unit back to its baseline and forgets those that are.
func (h *Host) restoreUnits(ctx context.Context) error {
	if len(h.Ledger.Units) == 0 {
		return nil
	}
	all, err := h.HostCPUs(cpuset.Set{})
	if err != nil {
		return err
	}
	var errs error
	for _, unit := range sortedKeys(h.Ledger.Units) {
		err := h.restoreUnit(ctx, unit, h.Ledger.Units[unit], all)
		if systemd.Gone(err) {
			err = nil
		}
		if err != nil && !errors.Is(err, ErrDrifted) {
			errs = errors.Join(errs, fmt.Errorf("cannot give %s its CPUs back: %w", unit, err))
			continue
		}
		if err != nil {
			h.Logf(Warning, "%s: %v", unit, err)
		}
		delete(h.Ledger.Units, unit)
	}
	return errors.Join(errs, h.SaveLedger())
}

// restoreUnit gives the unit all CPUs explicitly before the limit is lifted: some versions of systemd lift it on
// paper only (systemd issue 43846). The file of the drop-in then says what was there before, and goes if it was not.
func (h *Host) restoreUnit(ctx context.Context, unit string, b *UnitBaseline, all cpuset.Set) error {
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	now, err := h.UnitCPUs(ctx, unit, b.Systemd)
	if err != nil {
		return err
	}
	if b.drifted(now) && !now.Equal(all) {
		return fmt.Errorf("%w: its CPUs are %q", ErrDrifted, now)
	}
	if !now.Equal(b.Allowed) {
		if b.Allowed.Empty() {
			if err := h.setUnitCPUs(ctx, unit, b.Systemd, all); err != nil {
				return err
			}
		}
		if err := h.setUnitCPUs(ctx, unit, b.Systemd, b.Allowed); err != nil {
			return err
		}
	}
	if b.Systemd {
		if err := h.removeDropIn(unit, b.NewDropIn); err != nil {
			return err
		}
	}
	return h.repairCgroup(ctx, unit, b, all)
}

// repairCgroup reads back what the unit's tasks can really run on, and mends the cgroup itself where lifting the
// limit did not reach it.
func (h *Host) repairCgroup(ctx context.Context, unit string, b *UnitBaseline, all cpuset.Set) error {
	want := all
	if !b.Allowed.Empty() {
		want = all.Intersect(b.Allowed)
	}
	var before string // a cgroup that had no such file had no limit
	if b.Cgroup != nil {
		before = *b.Cgroup
	}
	name, err := h.CgroupCPUs(unit)
	if err != nil {
		return err
	}
	if name != "" && (b.Cgroup != nil || b.Allowed.Empty()) {
		now, err := h.Read(name)
		if err == nil && now != before {
			err = h.Write(name, before)
		}
		if before == "" && errors.Is(err, syscall.ENOSPC) {
			// Older kernels do not empty the CPUs of a cgroup that has tasks (validate_change in
			// kernel/cgroup/cpuset.c, seen in 6.1): all CPUs are no limit either.
			err = h.Write(name, all.String())
		}
		// systemd takes the controller away when no unit needs it any more, and the file with it: ENODEV if it was open.
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENODEV) {
			return err
		}
	}
	var now cpuset.Set
	err = poll(ctx, func() (bool, error) {
		var ok bool
		var err error
		now, ok, err = h.EffectiveCPUs(unit)
		return !ok || want.Minus(now).Empty(), err
	})
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("its cpuset.cpus.effective is %q instead of %s; mend it by: systemctl set-property --runtime %s AllowedCPUs=%s",
			now, want, unit, strings.ReplaceAll(want.String(), ",", " "))
	}
	return err
}

// removeDropIn removes the drop-in, up to the topmost part of its path that was not there before, or to a folder that
// something else has moved into.
func (h *Host) removeDropIn(unit, topmost string) error {
	if topmost == "" {
		return nil
	}
	for p := dropIn(unit); ; p = path.Dir(p) {
		err := h.Remove(p)
		switch {
		case errors.Is(err, syscall.ENOTEMPTY):
			return nil
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			return h.Failed("remove", p, err)
		case p == topmost:
			return nil
		}
	}
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
