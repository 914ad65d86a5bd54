package test

import (
	"fmt"
	"hash/crc32"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"qemu-hook/hook"
	"qemu-hook/sysfs/sysfstest"
	"qemu-hook/test/mode"
)

// A damage is what becomes of a file of the program's records.
type damage struct {
	name string
	do   func(l *life, file, content string)
}

func damages() []damage {
	set := func(change func(content string) string) func(l *life, file, content string) {
		return func(l *life, file, content string) { l.model.SetFile(file, change(content)) }
	}
	other := func(make func(l *life, file string)) func(l *life, file, _ string) {
		return func(l *life, file, _ string) {
			l.model.Remove(file)
			make(l, file)
		}
	}
	return []damage{
		{"empty", set(func(string) string { return "" })},
		{"cut in half", set(func(s string) string { return s[:len(s)/2] })},
		{"first byte lost", set(func(s string) string { return s[min(1, len(s)):] })},
		{"flipped", set(func(s string) string {
			b := []byte(s)
			if len(b) > 0 {
				b[len(b)/2] ^= 2
			}
			return string(b)
		})},
		{"garbage", set(func(string) string { return "\x00\xff garbage\n" })},
		{"newer", set(func(s string) string {
			if strings.HasPrefix(s, "{") {
				return `{"version":2,"boot":"x","sum":"y","payload":{}}` + "\n"
			}
			return sealed(`{"version":2,"boot":"x"}`) + s
		})},
		{"another type's content", set(func(s string) string { return strings.Replace(s, `"data":{`, `"data":[{`, 1) })},
		{"a link", other(func(l *life, file string) { l.model.SetLink(file, "/etc/passwd") })},
		{"a FIFO", other(func(l *life, file string) { l.model.SetNode(file, syscall.S_IFIFO|0o600, 0, 0) })},
		{"a directory", other(func(l *life, file string) { l.model.SetFile(file+"/x", "") })},
	}
}

// Whatever becomes of the program's records: each call names the file and what to do, changes nothing that it has no record of,
// and leaves the file as it is. With the file put right, or out of the way as it was said, release and recover go on.
func TestDamagedRecords(t *testing.T) {
	t.Parallel()
	b := newBus(t)
	p := pair{host: "fern", domain: "pages-only"}
	first := newLife(t, p, b)
	first.do("prepare", "orphaned")
	cases := 0
	for _, file := range []string{hook.LedgerDocument, first.g.uuid + ".undo", hook.RefusalsDocument, "lock"} {
		for _, d := range damages() {
			for _, op := range []string{"prepare", "started", "reconnect", "release", "recover", "status"} {
				cases++
				t.Run(fmt.Sprintf("%s/%s/%s", file, d.name, op), func(t *testing.T) {
					l := *first
					l.box = newBox(t, first.model.Clone(), b)
					damaged(t, &l, stateDir+"/"+file, d, op)
				})
			}
		}
	}
	t.Logf("%d damages", cases)
}

func damaged(t *testing.T, l *life, file string, d damage, op string) {
	fs := l.model.FS()
	whole, err := fs.ReadFile(file)
	if err != nil {
		whole = []byte(`{"version":1,"boot":"","sum":"","data":{}}`) // there are no refusals
	}
	d.do(l, file, string(whole))
	look := func() string {
		st, err := fs.Lstat(file)
		if err != nil {
			return err.Error()
		}
		content, _ := fs.ReadFile(file)
		return fmt.Sprintf("%o %q", st.Mode, content)
	}
	before, tree := look(), l.snapshot()
	isLedger := strings.HasSuffix(file, hook.LedgerDocument)
	isLog := strings.HasSuffix(file, ".undo")
	if string(whole) == strings.SplitN(before, " ", 2)[1] {
		t.Fatal("nothing is damaged")
	}

	var out, stderr string
	var status int
	if op == "status" {
		status, out, stderr = l.person("status")
	} else {
		status, stderr = l.call(op)
	}
	said := out + stderr
	if strings.Contains(said, "defect of qemu-hook") || status < 0 {
		t.Fatalf("%s ended with %d: %s", op, status, said)
	}
	names := strings.Contains(said, filepath.Join(l.root, file))
	saysWhatToDo(t, op, said, filepath.Join(l.root, file))
	// What says nothing to the lock's reader is written anew; a log whose last line was cut off never had it.
	lock := strings.HasSuffix(file, "/lock")
	regular := !strings.HasPrefix(d.name, "a ") || d.name == "a FIFO" // which is locked as well as a file is
	torn := isLog && (d.name == "empty" || d.name == "cut in half")
	now := look()
	switch {
	case lock && regular:
		if status != 0 {
			t.Errorf("%s ended with %d: %s", op, status, said)
		}
		return
	case lock && op == "status", torn:
	case op == "started" || op == "reconnect": // these end with 0 and speak to the journal
		if status != 0 {
			t.Errorf("%s ended with %d: %s", op, status, said)
		}
	case isLedger || lock:
		if status != 1 || !names {
			t.Errorf("%s ended with %d: %s", op, status, said)
		}
	case isLog:
		if status != 1 && op != "status" || !names {
			t.Errorf("%s ended with %d: %s", op, status, said)
		}
	default: // past refusals are no reason for another one
		if status != 0 || op == "status" && !names {
			t.Errorf("%s ended with %d: %s", op, status, said)
		}
	}
	// What a log says more is what was struck.
	if now != before && !torn && !(isLog && strings.HasPrefix(now, strings.TrimSuffix(before, `"`))) {
		t.Errorf("%s made of the file %s: %s", op, before, now)
	}
	if isLedger || lock && !regular {
		if diff := sysfstest.Diff(tree, l.snapshot()); diff != "" {
			t.Errorf("%s changes the host:\n%s", op, diff)
		}
	}
	if torn || op != "status" && !isLedger && !(lock && !regular) {
		return
	}
	// Put right, all goes on.
	if _, command, ok := strings.Cut(said, "; rm "); ok {
		command, _, _ = strings.Cut("rm "+command, "\n")
		if out, err := exec.Command("sh", "-c", command).CombinedOutput(); err != nil {
			t.Errorf("what it says does not work: %s: %v: %s", command, err, out)
		}
	}
	l.model.Remove(file)
	if strings.HasSuffix(file, hook.RefusalsDocument) {
		l.home([]string{"release"}, op)
		return
	}
	l.model.SetFile(file, string(whole))
	l.model.SetOwner(file, 0, 0, 0o600)
	l.home([]string{[]string{"release", "recover"}[len(d.name)%2]}, op)
}

// saysWhatToDo fails the test unless each message about a file has, behind what is the matter, a command or an act. The last line
// to libvirt may be the beginning of a message that stands above it.
func saysWhatToDo(t *testing.T, op, said, file string) {
	t.Helper()
	acts := []string{
		"rm ", "mv ", "install that version again", "use the version that made it", "undo that one by hand, then remove the file",
	}
	lines := strings.Split(said, "\n")
	for i, line := range lines {
		if !strings.Contains(line, file) {
			continue
		}
		_, begins, counted := strings.Cut(line, " reasons, the first: ")
		if !counted {
			begins = line
		}
		stands := func(above string) bool { return len(above) > len(begins) && strings.HasPrefix(above, begins) }
		_, remedy, _ := strings.Cut(line, "; ")
		if !slices.ContainsFunc(acts, func(act string) bool { return strings.Contains(remedy, act) }) && !slices.ContainsFunc(lines[:i], stands) {
			t.Errorf("%s does not say what to do: %s", op, line)
		}
	}
}

// sealed is a line of an undo log.
func sealed(text string) string {
	return fmt.Sprintf("%08x %s\n", crc32.ChecksumIEEE([]byte(text)), text)
}

// Records of another boot say nothing of this one: they are put aside, not lost, and do not keep a guest from starting.
func TestRecordsOfOtherBoot(t *testing.T) {
	t.Parallel()
	b := newBus(t)
	p := pair{host: "fern", domain: "pages-only"}
	old := newLife(t, p, b)
	old.do("prepare")
	records := map[string]string{}
	for _, file := range []string{hook.LedgerDocument, old.g.uuid + ".undo"} {
		content, err := old.model.FS().ReadFile(stateDir + "/" + file)
		if err != nil {
			t.Fatal(err)
		}
		records[file] = string(content)
	}
	for _, op := range []string{"prepare", "started", "release", "recover"} {
		t.Run(op, func(t *testing.T) {
			l := newLife(t, p, b)
			l.model.SetFile("/proc/sys/kernel/random/boot_id", "11111111-2222-3333-4444-555555555555\n")
			l.before = l.snapshot()
			run, err := l.model.VFS().Walk("/run", true)
			if err == nil {
				_, err = l.model.VFS().Mkdir(run, stateDir, 0o700, 0, 0, 0)
			}
			if err != nil {
				t.Fatal(err)
			}
			for file, content := range records {
				l.model.SetFile(stateDir+"/"+file, content)
			}
			l.do(op)
			if op == "prepare" {
				l.do("release")
			}
			for file, content := range records {
				aside, err := l.model.FS().ReadFile(stateDir + "/" + file + ".other-boot")
				if err != nil {
					aside, err = l.model.FS().ReadFile(stateDir + "/" + file)
				}
				if err != nil || string(aside) != content {
					t.Errorf("%s is lost: %v, %s", file, err, aside)
				}
			}
			l.wantHost(op)
		})
	}
}

// A kill in the middle of a write leaves the first bytes of it: after each such, release leads home.
func TestKilledInWrite(t *testing.T) {
	t.Parallel()
	points := 0
	b := newBus(t)
	p := pair{host: "fern", domain: "win11"}
	for _, s := range []scene{scenes()[0], scenes()[3]} {
		t.Run(s.op, func(t *testing.T) {
			a := reach(t, p, b, s)
			l := a.again(t, b)
			var mu sync.Mutex
			var writes []sysfstest.Change
			l.model.OnChange(func(c sysfstest.Change) error {
				mu.Lock()
				defer mu.Unlock()
				if c.Op == "write" && strings.HasPrefix(c.Path, stateDir) {
					writes = append(writes, c)
				}
				return nil
			})
			l.do(s.op)
			for i, w := range writes {
				for j, n := range []int{1, len(w.Value) / 2, len(w.Value) - 1} {
					if !mode.Long() && (i+j)%3 > 0 {
						continue
					}
					points++
					t.Run(fmt.Sprintf("%03d-%d", w.N, n), func(t *testing.T) { killInWrite(t, a.again(t, b), s, w, n) })
				}
			}
		})
	}
	t.Logf("%d kill points", points)
}

func killInWrite(t *testing.T, l *life, s scene, w sysfstest.Change, n int) {
	l.model.OnChange(func(c sysfstest.Change) error {
		if c.N != w.N {
			return nil
		}
		l.model.OnChange(nil)
		v := l.model.VFS()
		node, err := v.Walk(c.Path, false)
		if err == nil {
			off := int64(0)
			if strings.HasSuffix(c.Path, ".undo") { // which is appended to
				off = v.Stat(node).Size
			}
			err = v.Write(node, c.Path, off, []byte(c.Value[:min(n, len(c.Value)-1)]), 0) // times in it have more digits or fewer
		}
		if err != nil {
			t.Error(err)
		}
		l.box.running().kill(t)
		return syscall.EIO
	})
	if status, stderr := l.call(s.op); status != -1 {
		t.Fatalf("the program was not killed at the write %d: it ended with %d: %s", w.N, status, stderr)
	}
	l.model.WaitIdle(callTimeout)
	l.home(s.home[n%len(s.home)], fmt.Sprintf("%s killed when %d of %d bytes of %s were written", s.op, n, len(w.Value), w.Path))
}
