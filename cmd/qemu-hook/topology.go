package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/google/renameio/v2"

	"qemu-hook/hook"
	"qemu-hook/hook/topology"
	"qemu-hook/sysfs"
	"qemu-hook/text"
)

func runTopology(o options, args []string) error {
	if len(args) > 0 {
		return usageError("topology takes no name: it shows the whole host; --svg FILE draws it")
	}
	h, unseen, err := lookHost(o)
	if err != nil {
		return err
	}
	t, err := topology.Read(h.FS, topology.Guests(h, "", ""))
	if err != nil {
		return err
	}
	t.Unseen = unseen
	switch {
	case o.svg != "":
		return writeOut(o.svg, t.SVG())
	case o.json:
		return printJSON(t)
	}
	copyOut(text.Lines(t.Text()))
	return nil
}

// lookHost returns the host for a command that only looks, with what is on record. Unseen is set if that may not be seen. A tree
// that was taken of a host has no boot and nothing on record.
func lookHost(o options) (h *hook.Host, unseen bool, err error) {
	h, err = newHost(o)
	if errors.Is(err, fs.ErrNotExist) && o.root != "" {
		host, err := sysfs.New(o.rootDir())
		return &hook.Host{FS: host, Config: hook.DefaultConfig(), Ledger: &hook.Ledger{Guests: map[string]*hook.Guest{}}}, false, err
	} else if err != nil {
		return nil, false, err
	}
	if err := h.LoadLedger(); errors.Is(err, os.ErrPermission) {
		h.Ledger = &hook.Ledger{Guests: map[string]*hook.Guest{}}
		h.State = nil
		return h, true, nil
	} else if err != nil {
		return nil, false, err
	}
	return h, false, nil
}

// writeOut writes a document to a file, whole or not at all; "-" is standard output.
func writeOut(file, text string) error {
	if file == "-" {
		copyOut(text)
		return nil
	}
	if err := renameio.WriteFile(file, []byte(text), 0o644); err != nil {
		// Of the name that it is written under first nobody knows.
		var named *fs.PathError
		if errors.As(err, &named) {
			err = named.Err
		}
		return fmt.Errorf("cannot write %s: %w", file, err)
	}
	out("%s is written", file)
	return nil
}
