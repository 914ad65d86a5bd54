package domain

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"
)

// wellMade wants needs, whatever document they come from, to hold nothing that could do harm further on.
func wellMade(t *testing.T, n *Needs) {
	t.Helper()
	out, err := json.Marshal(n)
	if err != nil {
		t.Fatal(err)
	}
	var view needsView
	if err := json.Unmarshal(out, &view); err != nil {
		t.Fatalf("%s: %v", out, err)
	}
	for _, fn := range n.PCI {
		if got, err := ParseAddress(fn.Address); err != nil || got != fn.Address {
			t.Errorf("address %q: %q, %v", fn.Address, got, err)
		}
	}
	for _, file := range n.Shm {
		if !strings.HasPrefix(file.Path, shmDir) || filepath.Clean(file.Path) != file.Path {
			t.Errorf("shm file %q", file.Path)
		}
	}
	for _, file := range n.KVMFR {
		if !isKVMFR(file.Path) {
			t.Errorf("kvmfr device %q", file.Path)
		}
	}
	for _, file := range append(n.Shm, n.KVMFR...) {
		if int64(file.Bytes) < 0 {
			t.Errorf("%s has %d bytes", file.Path, file.Bytes)
		}
	}
	if u := n.Guest.UUID; u != "" {
		if got, err := canonicalUUID(u); err != nil || got != u {
			t.Errorf("UUID %q: %q, %v", u, got, err)
		}
	}
}

// tidy wants an error to be one line of bounded length.
func tidy(t *testing.T, err error) {
	t.Helper()
	odd := func(r rune) bool { return r == utf8.RuneError || !strconv.IsPrint(r) }
	if text := err.Error(); strings.ContainsFunc(text, odd) || len(text) > 700 {
		t.Errorf("the error is no line for a log (%d bytes): %.300q", len(text), text)
	}
}

// What stands in the document stands in an error only as far as it can be printed on one line.
func TestErrorsArePrintable(t *testing.T) {
	for _, doc := range []string{
		"<domain><" + strings.Repeat("\xcf\x87\xdf\x87", 50_000) + "/></domain>", "<domain><a\xff/></domain>", "<domain><a\u009b31m/></domain>",
		"<domain><" + strings.Repeat("a", 200_000) + "></b></domain>", "<domain>&" + strings.Repeat("x", 200_000) + ";</domain>",
		"<" + strings.Repeat("d", 200_000) + "/>", "<" + strings.Repeat("中", 200) + "/>", "<domain xmlns='" + strings.Repeat("u", 200_000) + "'/>", "<domain><uuid>" + strings.Repeat("\u202e", 9999) + "</uuid></domain>",
	} {
		_, err := Parse(strings.NewReader(doc))
		if err == nil {
			t.Errorf("%.60q is taken", doc)
			continue
		}
		tidy(t, err)
	}
}

func realDomains(t testing.TB) map[string][]byte {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(domainDir, "*.xml"))
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	all := map[string][]byte{}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		all[filepath.Base(file)] = data
	}
	return all
}

// A domain that is cut off anywhere is refused, but for white space and comments behind its end.
func TestCutOff(t *testing.T) {
	tried, stride := 0, 37
	if testing.Short() || raceEnabled {
		stride = 307
	}
	for name, data := range realDomains(t) {
		end := bytes.LastIndex(data, []byte("</domain>")) + len("</domain>")
		for n := len(data) % stride; n < end; n += stride {
			tried++
			_, err := Parse(bytes.NewReader(data[:n]))
			if err == nil {
				t.Fatalf("%s, the first %d bytes: taken", name, n)
			}
			tidy(t, err)
		}
	}
	t.Logf("%d domains cut off", tried)
}

// A domain with a byte of it spoilt is refused in one line, or asks for something that can be asked for.
func TestSpoilt(t *testing.T) {
	tried, refused, stride := 0, 0, 149
	if testing.Short() || raceEnabled {
		stride = 1499
	}
	for name, data := range realDomains(t) {
		for i := len(name) % stride; i < len(data); i += stride {
			for _, b := range []string{"", "\x00", "\xff", "<", "&", "'", "-", "9999999999", "\n", "</"} {
				tried++
				n, err := Parse(io.MultiReader(bytes.NewReader(data[:i]), strings.NewReader(b), bytes.NewReader(data[i+1:])))
				if err != nil {
					refused++
					tidy(t, err)
					continue
				}
				wellMade(t, n)
			}
		}
	}
	t.Logf("%d domains spoilt, %d of them refused", tried, refused)
}

// endless is a document of which there is always more.
type endless struct {
	head, more string
	read       int
}

func (r *endless) Read(p []byte) (int, error) {
	for i := range p {
		if at := r.read; at < len(r.head) {
			p[i] = r.head[at]
		} else {
			p[i] = r.more[(at-len(r.head))%len(r.more)]
		}
		r.read++
	}
	return len(p), nil
}

// However much is sent, no more is read than a domain may have: that bounds time and memory.
func TestEndless(t *testing.T) {
	for head, more := range map[string]string{
		"":                               " ",
		"<domain>":                       "<a/>",
		"<domain><name>":                 "x",
		"<domain><!--":                   "-",
		"<domain><devices>":              "<hostdev type='pci'><source><address/></source></hostdev>",
		"<domain xmlns:a='":              "b",
		"<!DOCTYPE domain [<!ENTITY a '": "&b;",
	} {
		r := &endless{head: head, more: more}
		_, err := Parse(r)
		if err == nil || !strings.Contains(err.Error(), "larger than 4 MiB") {
			t.Errorf("%s%s…: %v", head, more, err)
		}
		if r.read > maxBytes+1 {
			t.Errorf("%s%s…: %d bytes were read", head, more, r.read)
		}
	}
}

func TestCheckName(t *testing.T) {
	for name, good := range map[string]bool{
		"": true, "win11": true, "-": true, ".": true, "..": true, "$HOME": true, "a b": true, "Windows 11 – Spiele": true,
		strings.Repeat("x", 255): true, strings.Repeat("x", 256): false, strings.Repeat("ü", 512): false,
		"../../etc": false, "/": false, "a\nb": false, "a\rb": false, "\n": false,
	} {
		err := Guest{Name: name}.CheckName()
		if (err == nil) != good {
			t.Errorf("%.40q: %v", name, err)
		}
		if err != nil {
			tidy(t, err)
		}
	}
}

// QEMU's own arguments, each a line.
func FuzzCommandLine(f *testing.F) {
	for _, args := range []string{
		"-device\nvfio-pci,host=01:00.0", "--device\n{\"driver\":\"vfio-pci\",\"host\":\"0000:01:00.0\"}",
		"-device\nvfio-pci,sysfsdev=/sys/bus/pci/devices/0000:01:00.0,,x", "-object\nmemory-backend-file,id=x,mem-path=/dev/shm/a/../b,size=64M",
		"-object\n{'qom-type':'memory-backend-file','mem-path':'/dev/kvmfr0','size':67108864}", "-object\nmemory-backend-file,mem-path=/dev/shm/x,size=1.5G",
		"-object\nqom-type=memory-backend-file,mem-path=/dev/shm/x,size=0x10000000000000000", "-device\n", "-object\n{",
	} {
		f.Add(args)
	}
	f.Fuzz(func(t *testing.T, args string) {
		n := new(Needs)
		if err := readCommandLine(strings.Split(args, "\n"), n); err != nil {
			tidy(t, err)
			return
		}
		wellMade(t, n)
	})
}

// Numbers and units as they stand in memory elements, with their units.
func FuzzSize(f *testing.F) {
	for _, seed := range []string{"1", "0", "18446744073709551615", "64M", "1.5G", "0x10", "-1", "1e3", "9999999999999999999999"} {
		f.Add(seed, "KiB")
	}
	f.Fuzz(func(t *testing.T, number, unit string) {
		doc := fmt.Sprintf("<domain><memoryBacking><hugepages/></memoryBacking><memory unit='%s'>%s</memory></domain>", escape(unit), escape(number))
		n, err := Parse(strings.NewReader(doc))
		if err != nil {
			tidy(t, err)
			return
		}
		wellMade(t, n)
	})
}

func escape(s string) string {
	return strings.NewReplacer("&", "&amp;", "<", "&lt;", "'", "&apos;").Replace(s)
}
