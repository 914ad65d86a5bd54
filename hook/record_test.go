package hook

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"qemu-hook/journal"
	"qemu-hook/sysfs/sysfstest"
)

// recordHost is a model of a host with nothing on record.
func recordHost(t testing.TB, model *sysfstest.Host) *Host {
	dir, err := os.MkdirTemp("", "qemu-hook-record-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	h := &Host{
		FS: model.FS(), Systemd: model.Systemd(), State: journal.Open(filepath.Join(dir, "state"), "boot"),
		Config: DefaultConfig(), Ledger: &Ledger{Guests: map[string]*Guest{}}, Now: time.Now,
	}
	h.Slow = Inline{h.FS}
	return h
}

func loadModel(t testing.TB) *sysfstest.Host {
	model, err := sysfstest.Load("../testdata/hosts/fern.txtar")
	if err != nil {
		t.Fatal(err)
	}
	return model
}

// recordWait bounds what a record may have the program wait for.
const recordWait = 20 * time.Millisecond

// What a later version has recorded of a change beside what this one knows may matter to its undo: it is left to that version.
func TestRecordWithMore(t *testing.T) {
	_, err := decode(journal.Record{Seq: 1, Kind: shmFileKind, Data: []byte(`{"path":"/dev/shm/x","size":1,"future":true}`)})
	if err == nil || !strings.Contains(err.Error(), `"future"`) || !strings.Contains(err.Error(), "use the version that made it") {
		t.Errorf("decode: %v", err)
	}
}

// Whatever stands in a guest's undo log, it is read, shown and undone, or refused with an error: never a panic.
func FuzzRecord(f *testing.F) {
	for _, c := range []Change{
		&PCIDriver{Address: "0000:08:00.0", ID: "10de:2782", To: "vfio-pci", From: "nvidia"},
		&PCIDriver{Address: "0000:08:00.1", ID: "10de:22bc", To: "vfio-pci", Module: "vfio_pci", From: "", FromOverride: "none"},
		&PCIDriver{Address: "0000:08:00.0", ID: "10de:2782", To: "nvidia", FromBARs: []BARSize{{-1, 1 << 28}}, BARs: []BARSize{{-1, 1 << 28}}},
		&PCIPower{Address: "0000:08:00.0"},
		&Persistence{Address: "0000:08:00.0"},
		&ShmFile{Path: "/dev/shm/looking-glass", Size: 64 << 20, Made: 7},
		&ShmFile{Path: "/dev/shm/looking-glass", Found: &FoundFile{Ino: 3, UID: 1000, Mode: 0o600}},
	} {
		data, err := json.Marshal(c)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(c.Kind(), data)
	}
	f.Add("pci.power", []byte(`{}`))
	f.Add(pciDriverKind, []byte(`null`))
	f.Add(shmFileKind, []byte(`{"path":"/","size":18446744073709551615}`))
	model := loadModel(f)
	f.Fuzz(func(t *testing.T, kind string, data []byte) {
		c, err := decode(journal.Record{Seq: 1, Kind: kind, Data: data})
		if err != nil {
			return
		}
		if c.Kind() != kind {
			t.Errorf("a record of kind %q became a change of kind %q", kind, c.Kind())
		}
		_ = c.String() + c.Subject() + c.Target()
		h := recordHost(t, model.Clone())
		_ = c.Verify(h)
		ctx, cancel := context.WithTimeout(context.Background(), recordWait)
		defer cancel()
		_ = c.Undo(ctx, h)
		_ = c.Undo(ctx, h)
	})
}

// Whatever stands in the ledger, it is read and settled, or refused with an error: never a panic.
func FuzzLedger(f *testing.F) {
	f.Add([]byte(`{"guests":{"6f0c1f5a-54c3-4c0e-9a35-2c1a8a8d1e01":{"name":"win11","since":"2026-01-02T03:04:05Z",
		"claim":{"pci":["0000:08:00.0"],"cpus":"4-15","pages":[{"kib":2048,"node":0,"count":16,"added":16}]}}},
		"units":{"system.slice":{"systemd":true,"allowed":"","settled":"0-3","cgroup":""}},
		"pools":{"node0/2048kB":{"owed":4,"from":1,"to":5}},"wedged":{"0000:08:00.0":"stuck"}}`))
	f.Add([]byte(`{"guests":{"a":null},"units":{"b.slice":null},"pools":{"node0/2048kB":null}}`))
	f.Add([]byte(`{"pools":{"node9/3kB":{"owed":1},"x":{"owed":1}}}`))
	f.Add([]byte(`{"units":{"../../x":{"allowed":"0-99999"}}}`))
	model := loadModel(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		if !json.Valid(data) {
			return
		}
		h := recordHost(t, model.Clone())
		ctx, cancel := context.WithTimeout(context.Background(), recordWait)
		defer cancel()
		lock, err := h.State.Lock(ctx, "test")
		if err != nil {
			t.Skip(err)
		}
		defer lock.Unlock()
		if err := h.State.WriteDocument(LedgerDocument, json.RawMessage(data)); err != nil {
			return
		}
		if err := h.LoadLedger(); err != nil {
			return
		}
		_ = h.Settle(ctx)
		for uuid, g := range h.Ledger.Guests {
			h.Ledger.Find("", g.Name)
			_ = h.GiveBack(ctx, uuid)
		}
		_ = h.Settle(ctx)
	})
}
