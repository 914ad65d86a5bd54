package scripts

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"

	"qemu-hook/domain"
	"qemu-hook/hook"
	"qemu-hook/sysfs"
)

func TestLike(t *testing.T) {
	for _, c := range []struct {
		act, pattern string
		want         bool
	}{
		{"virsh nodedev-detach pci_0000_01_00_0", "virsh nodedev-detach|nodedev-reattach …", true},
		{"virsh list", "virsh nodedev-detach …", false},
		{"write /sys/bus/pci/devices/$dev/driver/unbind 1", "write /sys/bus/pci/devices/*/driver/unbind *", true},
		{"write /sys/bus/pci/devices/0000:01:00.0/driver/unbind/x 1", "write /sys/bus/pci/devices/*/driver/unbind *", false},
		{"modprobe -r nvidia_drm", "modprobe -r nvidia*|amdgpu", true},
		{"modprobe nvidia", "modprobe nvidia* …", true},
		{"modprobe", "modprobe nvidia* …", false},
		{"sync", "sync", true},
		{"sync now", "sync", false},
		{"write /sys/a/nr_hugepages_mempolicy 4", "write /sys/*/nr_hugepages* *", true},
		{"write /sys/nr_hugepages 4", "write /sys/*/nr_hugepages* *", false},
	} {
		if got := act(plain(strings.Fields(c.act)...)).like(c.pattern); got != c.want {
			t.Errorf("%q like %q: %v", c.act, c.pattern, got)
		}
	}
}

func TestExpand(t *testing.T) {
	v := variables{"1": {{text: "$1"}}}
	for _, a := range []string{"GPU=0000:01:00.0", `TWO="a b"`, "LIST=(x 'y z' $TWO)", "WHO=$1", "NOW=$(date)", `PATHS+=( one )`} {
		if !v.assign(a) {
			t.Fatalf("%s is no assignment", a)
		}
	}
	for word, want := range map[string]string{
		`/sys/$GPU/x`:            "/sys/0000:01:00.0/x",
		`"/sys/${GPU}/x"`:        "/sys/0000:01:00.0/x",
		`'$GPU'`:                 "$GPU",
		`$TWO`:                   "a|b",
		`"$TWO"`:                 "a b",
		`"${LIST[@]}"`:           "x|y z|a|b",
		`$WHO`:                   "$1",
		`"${1:-none}"`:           "$1",
		`${UNSET:-some}`:         "some",
		`$UNSET`:                 "$UNSET?",
		`a"b"'c'\d`:              "abcd",
		`"$(basename "$1" .sh)"`: `$(basename "$1" .sh)?`,
		`$NOW`:                   "$(date)?",
		`vtcon*`:                 "vtcon**",
		`"vtcon*"`:               "vtcon*",
		`""`:                     "",
		`$((1 + 2))`:             "$((1 + 2))?",
		`${PATHS[0]}`:            "${PATHS[0]}?",
		`$`:                      "$",
	} {
		var got []string
		for _, a := range v.word(word) {
			text := a.text
			if a.opaque {
				text += "?"
			}
			if a.glob {
				text += "*"
			}
			got = append(got, text)
		}
		if s := strings.Join(got, "|"); s != want {
			t.Errorf("%s becomes %s, want %s", word, s, want)
		}
	}
	for _, word := range []string{"=", "1=2", "-a=b", "echo", "a-b=c"} {
		if v.assign(word) {
			t.Errorf("%s is taken for an assignment", word)
		}
	}
}

func TestMatchArguments(t *testing.T) {
	for _, c := range []struct {
		template, text string
		guests         string
		phase          phase
		vague          bool
	}{
		{"$1", "win11", "win11", phaseUnknown, false},
		{"$2", "prepare", "", phaseBefore, false},
		{"$1/$2", "win11/release", "win11", phaseAfter, false},
		{"$1 $2 $3", "win11 started begin", "win11", phaseStarted, false},
		{"$1/$2", "*/prepare", "", phaseBefore, false},
		{"$1/$2", "win*/prepare", "", 0, true},
		{"$1/$2", "win11", "", 0, true},
		{"$2", "reconnect", "", phaseOther, false},
		{"$3", "begin", "", phaseUnknown, false},
		{"$4", "shutdown", "", 0, true},
		{"x$1", "xwin", "", 0, true},
	} {
		got := matchArguments(c.template, c.text)
		if got.vague != c.vague || !c.vague && (strings.Join(got.guests, " ") != c.guests || got.phase != c.phase) {
			t.Errorf("%s = %s: %+v", c.template, c.text, got)
		}
	}
}

func TestPlaceOf(t *testing.T) {
	for name, want := range map[string]when{
		"/etc/libvirt/hooks/qemu.d/win10/prepare/begin/start.sh": {guests: []string{"win10"}, phase: phaseBefore},
		"/etc/libvirt/hooks/qemu.d/win10/release/end/start.sh":   {guests: []string{"win10"}, phase: phaseAfter},
		"/home/a/win 10/started/begin/x":                         {guests: []string{"win 10"}, phase: phaseStarted},
		"/home/a/vfio-startup.sh":                                {phase: phaseBefore},
		"/home/a/stop-vfio.sh":                                   {phase: phaseAfter},
		"/home/a/start-stop.sh":                                  {},
		"/home/a/restart.sh":                                     {},
		"/etc/libvirt/hooks/qemu":                                {},
	} {
		got := placeOf(name)
		if strings.Join(got.guests, " ") != strings.Join(want.guests, " ") || got.phase != want.phase {
			t.Errorf("%s: %+v, want %+v", name, got, want)
		}
	}
}

// Every rule has a pattern that an act of its own kind fits, and names a step that there is.
func TestRules(t *testing.T) {
	steps := map[string]bool{"": true}
	for _, k := range hook.ConfigKeys() {
		if name, ok := strings.CutPrefix(k.Key, "steps."); ok {
			steps[name] = true
		}
	}
	n := 0
	for _, r := range rules() {
		if !steps[r.step] {
			t.Errorf("%q: there is no step %s", r.like, r.step)
		}
		if r.use == nil && r.why == "" || r.hurts != "" && r.does == "" {
			t.Errorf("%q: it does not say why", r.like)
		}
		for pattern := range strings.SplitSeq(r.like, "\n") {
			n++
			text := strings.NewReplacer("*", "x", "…", "").Replace(pattern)
			words := strings.Fields(text)
			for i, w := range words {
				words[i], _, _ = strings.Cut(w, "|")
			}
			if !act(plain(words...)).like(pattern) {
				t.Errorf("%q does not fit itself: %q", pattern, words)
			}
		}
	}
	t.Logf("%d rules with %d patterns", len(rules()), n)
}

// What grows by itself ends soon, and is named.
func TestBounds(t *testing.T) {
	dir := t.TempDir()
	host, err := sysfs.New(dir)
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		"doubling":  "a=x\nwhile true; do :; done\nfor i in {1..9} a b c d e f g h i j k l m n o p q r s t u v w x y z 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9; do a=$a$a; done\nfrob $a\n",
		"lists":     "a=(x y)\nfor i in a b c d e f g h i j k l m n o p q r s t u v w x y z; do a=(\"${a[@]}\" \"${a[@]}\"); done\nfrob \"${a[@]}\"\n",
		"calls":     "f() { f; f; f; }\nf\n",
		"texts":     "a='eval \"$a\"; eval \"$a\"'\neval \"$a\"\n",
		"loops":     strings.Repeat("for i in 1 2 3 4 5 6 7 8 9; do ", 30) + "frob $i" + strings.Repeat("; done", 30) + "\n",
		"nesting":   "x=" + strings.Repeat("$(", 5000) + "\n",
		"brackets":  strings.Repeat("(", 100_000),
		"functions": strings.Repeat("a() ", 50_000) + "\n",
		"words":     strings.Repeat("a$(b) ", 40_000) + "\n",
		"commands":  strings.Repeat("frob\n", 50_000),
	} {
		if err := os.WriteFile(filepath.Join(dir, "qemu"), []byte("#!/bin/sh\n"+content), 0o755); err != nil {
			t.Fatal(err)
		}
		r, err := Read(Tree{FS: host, Dir: "/"})
		if err != nil {
			t.Fatal(err)
		}
		text := r.Import(func(string) (*domain.Needs, error) { return nil, os.ErrNotExist })
		if !strings.Contains(text, "# Not understood") || len(text) > 8<<20 {
			t.Errorf("%s: %d bytes:\n%.1000s", name, len(text), text)
		}
	}
}

// FuzzRead reads scripts of any content: it ends, and what it prints is a configuration without mistakes.
func FuzzRead(f *testing.F) {
	trees, err := filepath.Glob("../../cmd/qemu-hook/testdata/hooks/*.txtar")
	if err != nil || len(trees) < 20 {
		f.Fatalf("%d trees, %v", len(trees), err)
	}
	for _, name := range trees {
		a, err := txtar.ParseFile(name)
		if err != nil {
			f.Fatal(err)
		}
		for _, file := range a.Files {
			if strings.HasPrefix(string(file.Data), "#!") {
				f.Add(string(file.Data))
			}
		}
	}
	dir := f.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "hooks"), 0o755); err != nil {
		f.Fatal(err)
	}
	host, err := sysfs.New(dir)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, content string) {
		name := filepath.Join(dir, "hooks", "qemu")
		if err := os.WriteFile(name, []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
		r, err := Read(Tree{FS: host, Dir: "/hooks"})
		if err != nil {
			t.Fatal(err)
		}
		text := r.Import(func(string) (*domain.Needs, error) { return nil, os.ErrNotExist })
		if len(text) > 60<<10 {
			return // more than a configuration may have
		}
		if _, err := hook.ParseConfig("import", []byte(text)); err != nil {
			t.Errorf("%v\n%s", err, text)
		}
	})
}
