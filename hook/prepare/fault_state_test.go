package prepare_test

import (
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"

	"qemu-hook/sysfs/sysfstest"
	"qemu-hook/sysfs/sysfstest/fusetest"
	"qemu-hook/test/mode"
)

// recordsDir is where the program's records are on the host's model, which serves them through its FUSE door.
const recordsDir = "/run/qemu-hook"

// everything is how all changes of the records fail from one on: /run is full, or read-only, or its memory is bad.
const everything failing = "everything from here on"

// A faultyRecords has the changes of the records counted, and one or more of them fail.
type faultyRecords struct {
	mu    sync.Mutex
	seen  map[operation]int
	order []operation
	fault *fault
	hit   int
}

// before is asked before each change of the model.
func (f *faultyRecords) before(c sysfstest.Change) error {
	if !strings.HasPrefix(c.Path, recordsDir) {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	o := operation{kind: opKind(c.Op), path: c.Path}
	if name := path.Base(c.Path); strings.HasPrefix(name, ".") {
		o.path = path.Join(path.Dir(c.Path), strings.TrimRight(name, "0123456789")) // has a random number
	}
	f.seen[o]++
	o.n = f.seen[o] - 1
	f.order = append(f.order, o)
	b := f.fault
	if b == nil {
		return nil
	}
	same := b.kind == o.kind && b.path == o.path
	if same && b.n == o.n || f.hit > 0 && (b.how == everything || b.how == ever && same) {
		f.hit++
		return b.err
	}
	return nil
}

// recordFaults are all faults of a change of the records (write(2), open(2), rename(2), unlink(2), chmod(2), mkdir(2)).
func recordFaults(o operation) (all []fault) {
	errs := []error{syscall.EIO, syscall.EROFS}
	switch o.kind {
	case "write", "create", "rename", "mkdir":
		errs = append(errs, syscall.ENOSPC)
	}
	for _, how := range []failing{once, ever, everything} {
		for _, err := range errs {
			all = append(all, fault{o, how, err})
		}
	}
	return all
}

// records serves the host's own tree and has the program's records in it.
func (r *faultRun) records() {
	r.state = filepath.Join(fusetest.Mount(r.t, r.model), recordsDir)
}

// withRecords has an event handled while the records fail.
func (r *faultRun) withRecords(event string, f *faultyRecords) error {
	r.model.OnChange(f.before)
	defer r.model.OnChange(nil)
	return r.event(event, nil)
}

// Every change of the program's records fails, once or for good.
func TestEveryRecordFault(t *testing.T) {
	var points, faults atomic.Int64
	turn := 0
	for _, c := range faultCases() {
		if !mode.Long() && c.name != "second card" && c.name != "quiet" {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			base := c.load(t)
			u := c.undisturbed(t, base)
			operations := map[string][]operation{}
			synctest.Test(t, func(t *testing.T) {
				r := c.run(t, base)
				r.records()
				for _, e := range faultEvents() {
					switch e {
					case "started":
						r.begins()
					case "release":
						r.ends()
					}
					f := &faultyRecords{seen: map[operation]int{}}
					if err := r.withRecords(e, f); err != nil {
						t.Errorf("%s: %v", e, reasons(err))
					}
					operations[e] = f.order
				}
			})
			for _, event := range faultEvents() {
				t.Run(event, func(t *testing.T) {
					var chosen []fault
					for _, o := range operations[event] {
						all := recordFaults(o)
						if mode.Long() {
							chosen = append(chosen, all...)
							continue
						}
						n := len(all) / 3
						chosen = append(chosen, all[turn%3*n+turn%n])
						turn++
					}
					points.Add(int64(len(operations[event])))
					faults.Add(int64(len(chosen)))
					for _, b := range chosen {
						t.Run(b.String(), func(t *testing.T) {
							synctest.Test(t, func(t *testing.T) { c.withoutRecords(t, base, u, event, b) })
						})
					}
				})
			}
		})
	}
	t.Logf("%d changes of the records, %d faults", points.Load(), faults.Load())
}

// withoutRecords goes a guest's way while its records fail at one event.
func (c *faultCase) withoutRecords(t *testing.T, base *rig, u *undisturbed, event string, b fault) {
	r := c.run(t, base)
	r.records()
	r.upTo(event)
	f := &faultyRecords{seen: map[operation]int{}, fault: &b}
	err := r.withRecords(event, f)
	if f.hit == 0 {
		t.Fatalf("there was no such change; %v", err)
	}
	if err != nil && !strings.Contains(reasons(err), recordsDir) {
		t.Errorf("the error does not name the records: %s", reasons(err))
	}
	if event == "prepare" {
		said := strings.Join(r.said, "\n")
		diff := sysfstest.Diff(u.after["prepare"], r.snapshot().Without(recordsDir))
		// The records take numbers of inodes too.
		diff = regexp.MustCompile(`(?m)^! /dev/shm/\S+: inode \d+ → \d+\n?`).ReplaceAllString(diff, "")
		switch {
		case err == nil && diff != "" && !strings.Contains(said, recordsDir):
			t.Errorf("prepare succeeded, and the host is not prepared:\n%s%s", diff, said)
		case err != nil && b.how == once:
			r.wantHome(u, "after the prepare that failed")
		}
	}
	if event == "release" && err == nil {
		r.wantHome(u, "after the release that succeeded")
		return
	}
	r.ends()
	r.must("release")
	r.wantHome(u, "after the next release")
}

// wantHome wants the host as it was before, and nothing on record.
func (r *faultRun) wantHome(u *undisturbed, when string) {
	r.t.Helper()
	if diff := sysfstest.Diff(u.before, r.snapshot().Without(recordsDir)); diff != "" {
		r.t.Errorf("%s the host is not as before:\n%s", when, diff)
	}
	r.wantNothingOnRecord(when)
}
