// Package journal keeps what must outlive the process: a lock, whole documents and one undo log for each guest, in a
// directory of root's own below /run.
package journal

import (
	"context"
	"encoding/json"
	"os"
)

// A Dir is the state directory. Everything in it belongs to one boot.
type Dir struct{}

// Open returns the state directory, without making it. bootID is /proc/sys/kernel/random/boot_id: files written in
// another boot are set aside (renamed to NAME.other-boot) and count as absent.
func Open(path, bootID string) *Dir { panic("unwritten") }

// A Lock is the exclusive right to act on the host.
type Lock struct{}

// Lock makes the directory if need be (0700; refused when it is a link, another user's or writable by others) and
// takes the lock, trying until ctx ends. holder says who it is for: whoever waits in vain is told.
func (d *Dir) Lock(ctx context.Context, holder string) (*Lock, error) { panic("unwritten") }

// File is the lock's descriptor, for a child that must hold the lock too.
func (l *Lock) File() *os.File { panic("unwritten") }

// Unlock gives the lock up, also where a child still has its descriptor.
func (l *Lock) Unlock() error { panic("unwritten") }

// ReadDocument decodes the document name ("ledger.json") into v and reports whether there is one.
func (d *Dir) ReadDocument(name string, v any) (bool, error) { panic("unwritten") }

// WriteDocument replaces the document atomically; a nil v removes it.
func (d *Dir) WriteDocument(name string, v any) error { panic("unwritten") }

// A Record is one entry of a guest's undo log.
type Record struct {
	Seq  int
	Kind string
	Data json.RawMessage
}

// Records returns the guest's records that are not struck, oldest first.
func (d *Dir) Records(uuid string) ([]Record, error) { panic("unwritten") }

// Append adds a record and returns its number.
func (d *Dir) Append(uuid, kind string, data any) (int, error) { panic("unwritten") }

// Amend replaces the data of a record.
func (d *Dir) Amend(uuid string, seq int, data any) error { panic("unwritten") }

// Strike removes a record; with the last one the log goes.
func (d *Dir) Strike(uuid string, seq int) error { panic("unwritten") }

// Guests returns the UUIDs that have an undo log, sorted.
func (d *Dir) Guests() ([]string, error) { panic("unwritten") }
