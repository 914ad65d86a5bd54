package hook

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"qemu-hook/journal"
)

// A process that never gives the lock up: whoever waits for it gives up when its time is over, and says whom it waited for.
func TestLockDeadline(t *testing.T) {
	model := loadModel(t)
	h := recordHost(t, model)
	slow := func(*os.File) SlowRunner { return Inline{h.FS} }
	holds, err := h.State.Lock(context.Background(), "prepare win11")
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		err := h.Locked(context.Background(), "release other", slow, func() error {
			t.Error("the lock was had by two")
			return nil
		})
		var held *journal.HeldError
		if !errors.As(err, &held) || held.PID != os.Getpid() || held.Holder != "prepare win11" || !strings.Contains(err.Error(), "(prepare win11)") {
			t.Errorf("got %v", err)
		}
		if waited := time.Since(began); waited != lockTimeout {
			t.Errorf("it waited for %s, want %s", waited, lockTimeout)
		}
	})
	if err := holds.Unlock(); err != nil {
		t.Fatal(err)
	}
	if err := h.Locked(context.Background(), "release other", slow, func() error { return nil }); err != nil {
		t.Error(err)
	}
}
