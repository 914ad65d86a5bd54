package hook

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"syscall"

	"qemu-hook/sysfs"
)

// A SettingBaseline is what one of the kernel's files held before the first claim on it.
type SettingBaseline struct {
	Was string `json:"was"`
	// Now is what it was given last, or is being given, as the kernel reads it back; Had what it held before that.
	Now string `json:"now"`
	// Want is what was asked of the kernel, which may make something else of it.
	Want string `json:"want"`
	Had  string `json:"had,omitempty"`
}

// drifted reports whether a value is none that the file had before or was given.
func (b *SettingBaseline) drifted(now string) bool {
	return !slices.Contains([]string{b.Was, b.Now, b.Had}, now)
}

// IsFrequency reports whether a setting is of the step "frequency"; the others are of "tunables".
func IsFrequency(file string) bool {
	return slices.Contains([]string{sysfs.Governor, sysfs.EPP, path.Base(sysfs.ResumeLatency(0))}, path.Base(file))
}

// settingClaim returns what guests want a setting to be, and who decides: the first of them, as long as it is there; nil if
// nobody does. One whose counterpart is claimed is claimed to be "0".
func (l *Ledger) settingClaim(file string) (value string, guest *Guest) {
	if value, guest = l.firstClaim(file); guest == nil {
		if v, g := l.firstClaim(counterpart(file)); g != nil && v != "0" {
			return "0", g
		}
	}
	return value, guest
}

func (l *Ledger) firstClaim(file string) (value string, guest *Guest) {
	for _, g := range l.Guests {
		v, ok := g.Claim.Settings[file]
		if ok && (guest == nil || g.Since.Before(guest.Since) || g.Since.Equal(guest.Since) && g.Name < guest.Name) {
			value, guest = v, g
		}
	}
	return value, guest
}

// SettingClaim returns what guests other than the one named want a setting to be, and which guest decides.
func (l *Ledger) SettingClaim(file, except string) (value, guest string) {
	others := Ledger{Guests: map[string]*Guest{}}
	for uuid, g := range l.Guests {
		if uuid != except {
			others.Guests[uuid] = g
		}
	}
	v, g := others.firstClaim(file)
	if g == nil {
		return "", ""
	}
	return v, g.Name
}

// settingRank orders writes: kernel.watchdog before nmi_watchdog and soft_watchdog, which read 0 while it is off; a governor
// before the energy preference, which cannot be written while the governor is "performance"; and zeros last, as the kernel
// may have made them already for their counterparts, and takes some of them from nobody else.
func (l *Ledger) settingRank(file string) int {
	switch {
	case file == "/proc/sys/kernel/watchdog":
		return -1
	case l.Settings[file].Now == "0" && counterpart(file) != "":
		return 2
	case path.Base(file) == sysfs.EPP:
		return 1
	}
	return 0
}

// ReadSetting returns what one of the kernel's files holds, words with one space between; of a choice the word that is
// chosen.
func (h *Host) ReadSetting(file string) (string, error) {
	now, _, err := h.ReadChoice(file)
	return now, err
}

// ReadChoice is [Host.ReadSetting], and returns the words of which one is chosen, if the file has them: "always [madvise]
// never", or "none voluntary (full)".
func (h *Host) ReadChoice(file string) (now string, words []string, err error) {
	v, err := h.Read(file)
	if err != nil {
		return "", nil, err
	}
	words = strings.Fields(v)
	for i, w := range words {
		if len(words) > 1 && len(w) > 2 && (w[0] == '[' && w[len(w)-1] == ']' || w[0] == '(' && w[len(w)-1] == ')') {
			words[i] = w[1 : len(w)-1]
			return words[i], words, nil
		}
	}
	return strings.Join(words, " "), nil, nil
}

// Tunable returns the file that a tunable's path leads to, links in it followed: /sys is full of them. It fails if that is
// outside of /proc/sys and /sys, or no plain file that can be written.
func (h *Host) Tunable(name string) (string, error) {
	file, err := h.ResolveLinks(name)
	if err != nil {
		return "", fmt.Errorf("%s cannot be set: %w", name, err)
	}
	st, err := h.Lstat(file)
	switch {
	case err != nil:
		return "", fmt.Errorf("%s cannot be set: %w", name, &sysfs.Error{Op: "look at", Path: file, Err: err})
	case !IsTunable(file):
		return "", fmt.Errorf("%s cannot be set: it leads out of /proc/sys and /sys, to %s", name, file)
	case st.Type() != syscall.S_IFREG || st.Perm()&0o222 == 0:
		return "", fmt.Errorf("%s cannot be set: it is no file that can be written", name)
	}
	return file, nil
}

// SettleFrequency gives CPUs the governor, energy preference and wake-up latency that guests claim, or what they had.
func (h *Host) SettleFrequency(ctx context.Context) error { return h.settleSettings(ctx, IsFrequency) }

// SettleTunables gives the kernel's tunables the values that guests claim, or those that they had.
func (h *Host) SettleTunables(ctx context.Context) error {
	return h.settleSettings(ctx, func(file string) bool { return !IsFrequency(file) })
}

// settleSettings settles the settings of one step: all are looked at, then the ledger is written, then they are, as some
// of them change with others.
func (h *Host) settleSettings(ctx context.Context, ours func(file string) bool) error {
	var files []string
	var errs error
	for _, g := range h.Ledger.Guests {
		for file := range g.Claim.Settings {
			files = append(files, file)
			if c := counterpart(file); c != "" {
				there, err := h.Has(c)
				errs = errors.Join(errs, err)
				if there || err != nil {
					files = append(files, c)
				}
			}
		}
	}
	for file := range h.Ledger.Settings {
		files = append(files, file)
	}
	files = slices.DeleteFunc(files, func(f string) bool { return !ours(f) })
	slices.Sort(files)
	files = slices.Compact(files)
	if len(files) == 0 {
		return nil
	}
	if h.Ledger.Settings == nil {
		h.Ledger.Settings = map[string]*SettingBaseline{}
	}
	changed := false
	var todo []string
	for _, file := range files {
		did, write, err := h.planSetting(file)
		errs = errors.Join(errs, err)
		changed = changed || did
		if write {
			todo = append(todo, file)
		}
	}
	// The kernel changes its counterpart with it, so what that was has to be on record first.
	todo = slices.DeleteFunc(todo, func(file string) bool {
		c := counterpart(file)
		return slices.Contains(files, c) && h.Ledger.Settings[c] == nil
	})
	if changed {
		if err := h.SaveLedger(); err != nil {
			errs = errors.Join(errs, err)
			// What was there before needs no note: whoever comes next finds it as it is to be.
			todo = slices.DeleteFunc(todo, func(file string) bool { b := h.Ledger.Settings[file]; return b.Want != b.Was })
		}
	}
	changed = false
	slices.SortStableFunc(todo, func(a, b string) int {
		return cmp.Compare(h.Ledger.settingRank(a), h.Ledger.settingRank(b))
	})
	for _, file := range todo {
		if err := context.Cause(ctx); err != nil {
			return errors.Join(errs, fmt.Errorf("interrupted before %s: %w", file, err))
		}
		did, err := h.giveSetting(file)
		errs = errors.Join(errs, err)
		changed = changed || did
	}
	if changed {
		errs = errors.Join(errs, h.SaveLedger())
	}
	return errs
}

// planSetting decides about one setting; changed says that the ledger has to be written, write that the file may have to.
func (h *Host) planSetting(file string) (changed, write bool, err error) {
	want, guest := h.Ledger.settingClaim(file)
	b := h.Ledger.Settings[file]
	now, err := h.ReadSetting(file)
	switch {
	case b != nil && (vanished(err) || errors.Is(err, syscall.EBUSY)) && h.waitsForCPU(file):
		return false, false, nil // it comes back with its CPUs, as it was set
	case vanished(err) && b != nil:
		delete(h.Ledger.Settings, file)
		return true, false, nil
	case err != nil:
		return false, false, err
	}
	if b == nil {
		h.Ledger.Settings[file] = &SettingBaseline{Was: now, Now: want, Want: want, Had: now}
		return true, true, nil
	}
	if b.drifted(now) {
		if guest != nil {
			return false, false, nil // status says so
		}
		h.Logf(Warning, "%s was set to %q by somebody else meanwhile, and is left so; it was %q before", file, now, b.Was)
		delete(h.Ledger.Settings, file)
		return true, false, nil
	}
	if guest == nil {
		want = b.Was
	}
	if b.Want == want {
		return false, now != b.Now || guest == nil, nil
	}
	b.Had, b.Now, b.Want = now, want, want
	return true, true, nil
}

// giveSetting writes what planSetting has decided, if it is not so already, and reads back what the kernel made of it. A
// setting that is as it was before is forgotten.
func (h *Host) giveSetting(file string) (changed bool, err error) {
	b := h.Ledger.Settings[file]
	_, guest := h.Ledger.settingClaim(file)
	now, err := h.ReadSetting(file)
	if err != nil {
		return false, err
	}
	if now != b.Now {
		err = h.Write(file, b.Want)
		var rerr error
		if now, rerr = h.ReadSetting(file); rerr != nil {
			return false, errors.Join(err, rerr)
		}
		// What it holds counts, whatever the write said.
		if err != nil && now != b.Now {
			if guest != nil && now == b.Was {
				delete(h.Ledger.Settings, file)
				return true, err
			}
			return false, err
		}
	}
	if guest == nil {
		if now != b.Was {
			return false, fmt.Errorf("cannot give %s its %q back: it reads %q after that was written", file, b.Was, now)
		}
		delete(h.Ledger.Settings, file)
		return true, nil
	}
	if now != b.Now {
		h.Logf(Warning, "%s was given %q and reads %q", file, b.Now, now)
		b.Now = now
		return true, nil
	}
	return false, nil
}

// counterpart returns the setting that the kernel sets to 0 when this one is written: the same limit can be given as a
// share or as a number of bytes (Documentation/admin-guide/sysctl/vm.rst); "" if there is none.
func counterpart(file string) string {
	const vm = "/proc/sys/vm/"
	switch file {
	case vm + "dirty_ratio":
		return vm + "dirty_bytes"
	case vm + "dirty_bytes":
		return vm + "dirty_ratio"
	case vm + "dirty_background_ratio":
		return vm + "dirty_background_bytes"
	case vm + "dirty_background_bytes":
		return vm + "dirty_background_ratio"
	case vm + "overcommit_ratio":
		return vm + "overcommit_kbytes"
	case vm + "overcommit_kbytes":
		return vm + "overcommit_ratio"
	}
	return ""
}

// waitsForCPU reports whether a file that cannot be used can come back: that of CPUs that are off line, which say EBUSY
// (show and store in drivers/cpufreq/cpufreq.c).
func (h *Host) waitsForCPU(file string) bool {
	if !IsFrequency(file) {
		return false
	}
	present, err1 := h.PresentCPUs()
	online, err2 := h.OnlineCPUs()
	return err1 == nil && err2 == nil && !present.Minus(online).Empty()
}
