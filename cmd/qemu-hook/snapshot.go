package main

import (
	"context"
	"fmt"

	"qemu-hook/sysfs/sysfstest"
)

func runSnapshot(o options, args []string) error {
	file := "-"
	switch len(args) {
	case 0:
	case 1:
		file = args[0]
	default:
		return usageError("snapshot writes to one file at most")
	}
	if err := needRoot(o, "snapshot"); err != nil {
		return fmt.Errorf("snapshot reads what only root may see; try sudo qemu-hook snapshot …")
	}
	h, _, err := lookHost(o)
	if err != nil {
		return err
	}
	options := sysfstest.RecordOptions{
		Comment: "A host as qemu-hook " + version + " sees it.",
		Manager: h.Systemd,
	}
	// A configuration that cannot be read is no reason to write nothing.
	if cfg, err := loadConfig(h, o); err == nil {
		options.Units = cfg.Stop
	}
	data, err := sysfstest.Record(context.Background(), h.FS, options)
	if err != nil {
		return fmt.Errorf("cannot write this host down: %w", err)
	}
	return writeOut(file, string(data))
}
