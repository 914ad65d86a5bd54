package nixos_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A bench runs the module's scripts with programs that only say how they were called.
type bench struct {
	t      *testing.T
	dir    string
	env    []string
	calls  string // the programs write there
	failed bool   // how the last script ended
}

func newBench(t *testing.T, env ...string) *bench {
	t.Helper()
	need(t, "bash")
	dir := t.TempDir()
	b := &bench{t: t, dir: dir, calls: filepath.Join(dir, "calls")}
	b.env = append(env, "PATH="+filepath.Join(dir, "bin")+":"+os.Getenv("PATH"), "HOME="+dir, "BENCH="+dir, "EXIT_OF_VIRSH=0", "STATE=running")
	for _, name := range []string{"qemu-hook", "lspci", "virsh", "looking-glass-client", "xfreerdp", "sudo"} {
		// Whether anything comes by standard input is part of the call.
		b.program(name, `printf '%s' "`+name+`" >>"$BENCH/calls"
for a in "$@"; do printf ' [%s]' "$a" >>"$BENCH/calls"; done
if [[ -t 0 ]]; then in=; else in=$(head -c 100); fi
if [[ -n $in ]]; then printf ' <%s' "$in" >>"$BENCH/calls"; fi
echo >>"$BENCH/calls"
if [[ "`+name+` $*" == "virsh"*domstate* ]]; then echo "$STATE"; echo; fi`)
	}
	return b
}

func (b *bench) program(name, body string) {
	b.t.Helper()
	file := filepath.Join(b.dir, "bin", name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("#!/usr/bin/env bash\n"+body+"\n"), 0o755); err != nil {
		b.t.Fatal(err)
	}
}

// run runs a script as writeShellApplication makes it, as root or not, with something on standard input, and returns what was
// called and what was said.
func (b *bench) run(root bool, script string, args ...string) (calls, said string) {
	b.t.Helper()
	text, err := os.ReadFile(filepath.Join("scripts", script+".sh"))
	if err != nil {
		b.t.Fatal(err)
	}
	euid := "1000"
	if root {
		euid = "0"
	}
	// EUID cannot be set, so the tests' scripts ask for another name.
	body := strings.ReplaceAll(string(text), "EUID", "BENCH_EUID")
	file := filepath.Join(b.dir, script)
	if err := os.WriteFile(file, []byte("#!/usr/bin/env bash\nset -o errexit -o nounset -o pipefail\n"+body), 0o755); err != nil {
		b.t.Fatal(err)
	}
	_ = os.Remove(b.calls)
	cmd := exec.Command(file, args...)
	cmd.Env = append(b.env, "BENCH_EUID="+euid)
	cmd.Stdin = strings.NewReader("<domain type='kvm'/>")
	out, err := cmd.CombinedOutput()
	b.failed = err != nil
	got, _ := os.ReadFile(b.calls)
	return strings.TrimSpace(string(got)), string(out)
}

// TestScriptsAsRoot: what the scripts that run as root have done, and that they can be made to do nothing else.
func TestScriptsAsRoot(t *testing.T) {
	b := newBench(t, "VFIO_GUEST=win11", "VFIO_ADDRESSES=0000:08:00.0 0000:08:00.1")
	for _, c := range []struct{ script, args, want string }{
		{"start-vfio", "", "qemu-hook [prepare] [--] [win11]"},
		{"start-vfio", "work", "qemu-hook [prepare] [--] [work]"},
		{"stop-vfio", "", "qemu-hook [release] [--] [win11]"},
		{"vfio", "bind", "qemu-hook [bind] [0000:08:00.0] [0000:08:00.1]"},
		{"vfio", "unbind", "qemu-hook [unbind] [0000:08:00.0] [0000:08:00.1]"},
		{"vfio", "status", "lspci [-Dnnk] [-s] [0000:08:00.0]\nlspci [-Dnnk] [-s] [0000:08:00.1]\nqemu-hook [status]"},
	} {
		got, said := b.run(true, c.script, strings.Fields(c.args)...)
		// lspci may read what it likes; it is given nothing to read by anybody.
		got = strings.ReplaceAll(got, " <<domain type='kvm'/>\nlspci", "\nlspci")
		if c.script == "vfio" && c.args == "status" {
			got = strings.ReplaceAll(got, " <<domain type='kvm'/>", "")
		}
		if got != c.want || b.failed {
			t.Errorf("%s %s called\n%s\nwant\n%s\n%s", c.script, c.args, got, c.want, said)
		}
		// Not as root they go by sudo, with the same arguments and by their own path.
		args := strings.Fields(c.args)
		if c.script != "vfio" && len(args) == 0 {
			args = []string{"win11"}
		}
		want := fmt.Sprintf("sudo [--] [%s]", filepath.Join(b.dir, c.script))
		for _, a := range args {
			want += " [" + a + "]"
		}
		got, _ = b.run(false, c.script, strings.Fields(c.args)...)
		if got, _, _ = strings.Cut(got, " <"); got != want {
			t.Errorf("%s %s as a user called\n%s\nwant\n%s", c.script, c.args, got, want)
		}
	}
	refused := 0
	for _, script := range []string{"start-vfio", "stop-vfio", "vfio", "vm"} {
		for _, args := range [][]string{
			{"--xml=/tmp/x"},
			{"--config", "/tmp/x"},
			{"win11", "--root=/tmp"},
			{"--", "win11"},
			{"-h"},
			{""},
			{"a b"},
			{"../x"},
			{"bind", "0000:00:1f.2"},
			{"status", "-x"},
			{"start", "--paused"},
		} {
			refused++
			if got, _ := b.run(true, script, args...); got != "" || !b.failed {
				t.Errorf("%s %q called %s", script, args, got)
			}
		}
	}
	if got, said := newBench(t, "VFIO_ADDRESSES=").run(true, "vfio", "bind"); got != "" || !strings.Contains(said, "set vfio.devices.addresses") {
		t.Errorf("without addresses: %s %s", got, said)
	}
	t.Logf("%d command lines refused", refused)
}

func TestScriptsForPeople(t *testing.T) {
	b := newBench(t, "VFIO_GUEST=win11", "VFIO_CAPTURE_KEY=KEY_F12", "VFIO_SHM=/dev/null", "VFIO_RDP_HOST=10.0.0.2", "VFIO_RDP_USER=al", "VFIO_RDP_OPTIONS=/sound\n/drive:a,/b c")
	for _, c := range []struct{ script, args, want string }{
		{"vm", "start", "virsh [--connect] [qemu:///system] [start] [win11]"},
		{"vm", "stop work", "virsh [--connect] [qemu:///system] [shutdown] [work]"},
		{"vm", "status", "virsh [--connect] [qemu:///system] [dominfo] [win11]"},
		{"vm", "console", "virsh [--connect] [qemu:///system] [console] [win11]"},
		{
			"lg", "win:fullScreen",
			"virsh [--connect] [qemu:///system] [domstate] [win11]\nlooking-glass-client [app:shmFile=/dev/null] [input:escapeKey=KEY_F12] [win:fullScreen]",
		},
		{"rdp", "", "xfreerdp [/v:10.0.0.2] [/u:al] [/sound] [/drive:a,/b c]"},
	} {
		got, said := b.run(false, c.script, strings.Fields(c.args)...)
		if got = strings.ReplaceAll(got, " <<domain type='kvm'/>", ""); got != c.want || b.failed {
			t.Errorf("%s %s called\n%s\nwant\n%s\n%s", c.script, c.args, got, c.want, said)
		}
	}
	if got, _ := b.run(false, "rdp", "/p:secret"); got != "" || !b.failed {
		t.Errorf("rdp took a password: %s", got)
	}
	b.env = append(b.env, "VFIO_RDP_OPTIONS=", "VFIO_RDP_USER=")
	if got, _ := b.run(false, "rdp"); !strings.HasPrefix(got, "xfreerdp [/v:10.0.0.2]") || strings.Contains(got, "[]") {
		t.Errorf("rdp without options called %s", got)
	}
	b.env = append(b.env, "STATE=shut off")
	if got, said := b.run(false, "lg"); strings.Contains(got, "client") || !strings.Contains(said, "win11 is shut off; start it: vm start win11") {
		t.Errorf("lg without its guest: %s %s", got, said)
	}
	b.env = append(b.env, "STATE=running", "VFIO_SHM=/dev/kvmfr77")
	if got, said := b.run(false, "lg"); strings.Contains(got, "client") || !strings.Contains(said, "/dev/kvmfr77 is missing") {
		t.Errorf("lg without its memory: %s %s", got, said)
	}
}

// TestDefineVM has a libvirt that keeps definitions in files.
func TestDefineVM(t *testing.T) {
	need(t, "xmlstarlet")
	b := newBench(t)
	b.program("virsh", `echo "$*" >>"$BENCH/calls"
[[ $1 == --quiet && $2 == --connect && $3 == qemu:///system ]] || exit 9
shift 3
case $1 in
uri) if [[ -e $BENCH/deaf ]]; then rm "$BENCH/deaf"; exit 1; fi ;;
domuuid) xmlstarlet sel -t -v /domain/uuid "$BENCH/defined/$2.xml" ;;
dumpxml) cat "$BENCH/defined/$3.xml" ;;
define)
	name=$(xmlstarlet sel -t -v /domain/name "$2")
	old=$(xmlstarlet sel -t -v /domain/uuid "$BENCH/defined/$name.xml" 2>/dev/null || true)
	new=$(xmlstarlet sel -t -v /domain/uuid "$2")
	if [[ -n $old && $old != "$new" ]]; then echo "already exists with uuid $old" >&2; exit 1; fi
	cp "$2" "$BENCH/defined/$name.xml"
	;;
autostart) ;;
*) exit 9 ;;
esac`)
	b.program("sleep", "exit 0")
	xml := filepath.Join(b.dir, "guest.xml")
	write := func(text string) {
		if err := os.WriteFile(xml, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range []string{"state", "defined"} {
		if err := os.Mkdir(filepath.Join(b.dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	b.env = append(b.env, "GUEST=work", "XML="+xml, "AUTOSTART=no", "STATE_DIRECTORY="+filepath.Join(b.dir, "state"))
	define := func() string {
		calls, said := b.run(true, "define-vm")
		if b.failed {
			t.Fatalf("%s\n%s", said, calls)
		}
		if strings.Contains(calls, "undefine") || strings.Contains(calls, "destroy") || strings.Contains(calls, "--nvram") {
			t.Errorf("called %s", calls)
		}
		return calls
	}
	defined := func(path string) string {
		out, _ := exec.Command("xmlstarlet", "sel", "-t", "-v", path, filepath.Join(b.dir, "defined/work.xml")).Output()
		return strings.TrimSpace(string(out))
	}

	// The first time, with a daemon that is deaf at first; the name is the unit's.
	if err := os.WriteFile(filepath.Join(b.dir, "deaf"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	write("<domain><name>other</name><uuid>one</uuid><os><type>hvm</type></os></domain>")
	if calls := define(); !strings.Contains(calls, "define") || !strings.Contains(calls, "autostart --disable work") || strings.Count(calls, "uri") != 2 {
		t.Errorf("at first: %s", calls)
	}
	if defined("/domain/name") != "work" || defined("/domain/uuid") != "one" {
		t.Errorf("defined %s with uuid %s", defined("/domain/name"), defined("/domain/uuid"))
	}
	// Nothing has changed: nothing is defined.
	if calls := define(); strings.Contains(calls, "define") || strings.Contains(calls, "autostart") {
		t.Errorf("again: %s", calls)
	}
	// What a person has changed stays as long as the configuration stays.
	person := "<domain><name>work</name><uuid>one</uuid><os><type>hvm</type><nvram>/vars.fd</nvram></os><vcpu>4</vcpu></domain>"
	if err := os.WriteFile(filepath.Join(b.dir, "defined/work.xml"), []byte(person), 0o644); err != nil {
		t.Fatal(err)
	}
	define()
	if defined("/domain/vcpu") != "4" {
		t.Error("a person's change is gone")
	}
	// A changed definition, with another uuid or none, is the same guest with the same firmware variables.
	for _, uuid := range []string{"", "<uuid>two</uuid>"} {
		write("<domain><name>work</name>" + uuid + "<os><type>hvm</type></os><vcpu>2</vcpu></domain>")
		define()
		if defined("/domain/uuid") != "one" || defined("/domain/os/nvram") != "/vars.fd" || defined("/domain/vcpu") != "2" {
			t.Errorf("with %q: uuid %s, variables %s, %s CPUs", uuid, defined("/domain/uuid"), defined("/domain/os/nvram"), defined("/domain/vcpu"))
		}
	}
	// Its own variables are the XML's to say.
	write("<domain><name>work</name><os><type>hvm</type><nvram>/other.fd</nvram></os></domain>")
	if define(); defined("/domain/os/nvram") != "/other.fd" {
		t.Errorf("variables %s", defined("/domain/os/nvram"))
	}
	// A guest that was undefined by hand is defined again.
	if err := os.Remove(filepath.Join(b.dir, "defined/work.xml")); err != nil {
		t.Fatal(err)
	}
	if define(); defined("/domain/name") != "work" {
		t.Error("not defined again")
	}
	b.env = append(b.env, "AUTOSTART=yes")
	if calls := define(); !strings.Contains(calls, "autostart work") {
		t.Errorf("autostart: %s", calls)
	}
	// A daemon that never answers is a failure.
	b.program("virsh", "exit 1")
	if _, said := b.run(true, "define-vm"); !b.failed || !strings.Contains(said, "libvirtd does not answer") {
		t.Errorf("without a daemon: %s", said)
	}
}

// TestHookLink runs the unit's script: the link that libvirtd looks for, and a daemon told of it.
func TestHookLink(t *testing.T) {
	need(t, "nix-instantiate")
	f, err := newSite(repository(t)).evaluate()
	if err != nil {
		t.Fatal(err)
	}
	b := newBench(t)
	b.program("systemctl", `echo "systemctl $*" >>"$BENCH/calls"`)
	dir := filepath.Join(b.dir, "qemu.d")
	script := strings.ReplaceAll(text(at(f.Hosts["minimal"], "systemd", "services", "qemu-hook-link", "script")), "/var/lib/libvirt/hooks/qemu.d", dir)
	run := func() string {
		_ = os.Remove(b.calls)
		cmd := exec.Command("bash", "-e", "-c", script)
		cmd.Env = b.env
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if target, err := os.Readlink(filepath.Join(dir, "50-qemu-hook")); target != "/etc/qemu-hook/hook" {
			t.Errorf("the link: %s %v", target, err)
		}
		calls, _ := os.ReadFile(b.calls)
		return string(calls)
	}
	const told = "systemctl --quiet is-active libvirtd.service\nsystemctl kill --kill-whom=main --signal=HUP libvirtd.service\n"
	if calls := run(); calls != told {
		t.Errorf("at first: %s", calls)
	}
	if calls := run(); calls != "" {
		t.Errorf("again: %s", calls)
	}
	// An older hook in its place is replaced.
	if err := os.Remove(filepath.Join(dir, "50-qemu-hook")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/nix/store/gone", filepath.Join(dir, "50-qemu-hook")); err != nil {
		t.Fatal(err)
	}
	if calls := run(); calls != told {
		t.Errorf("over an older one: %s", calls)
	}
	b.program("systemctl", `echo "systemctl $*" >>"$BENCH/calls"; exit 3`)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if calls := run(); strings.Contains(calls, "kill") {
		t.Errorf("without a daemon: %s", calls)
	}
}
