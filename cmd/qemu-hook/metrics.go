package main

import (
	"context"
	"path/filepath"

	"github.com/google/renameio/v2"

	"qemu-hook/hook"
)

// locked runs an operation with the lock. Its report goes to the log, and the figures of what guests have then to where the
// configuration says.
func locked(ctx context.Context, h *hook.Host, o options, op, guest string, f func() error) error {
	start := h.Now()
	return h.Locked(ctx, op+" "+guest, newWorker(o), func() error {
		h.BeginReport()
		err := f()
		sendReport(h, h.EndReport(err))
		leaveMetrics(h, o, hook.Outcome{Op: op, Guest: guest, Took: h.Now().Sub(start), Err: err})
		return err
	})
}

// leaveMetrics replaces the file with the figures, whole: its reader may come at any time. An event is not worth less
// because nobody can be told of it.
func leaveMetrics(h *hook.Host, o options, last hook.Outcome) {
	name := h.Config.MetricsFile
	if name == "" {
		return
	}
	text, err := h.Metrics(last)
	if err == nil {
		file := filepath.Join(o.rootDir(), name)
		err = renameio.WriteFile(file, []byte(text), 0o644, renameio.WithTempDir(filepath.Dir(file)), renameio.WithStaticPermissions(0o644))
	}
	if err != nil {
		h.Logf(hook.Warning, "cannot write the metrics to %s: %v", name, err)
	}
}
