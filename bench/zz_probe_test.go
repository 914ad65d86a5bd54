package bench

import (
	"os"
	"os/exec"
	"testing"

	"qemu-hook/sysfs/sysfstest"
	"qemu-hook/sysfs/sysfstest/fusetest"
)

func TestZZProbe(t *testing.T) {
	h, err := sysfstest.Load("../testdata/hosts/fern.txtar")
	if err != nil {
		t.Fatal(err)
	}
	dir := fusetest.Mount(t, h)
	cmd := exec.Command("sh", "-c", os.Getenv("PROBE"))
	cmd.Env = append(os.Environ(), "DIR="+dir)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		t.Error(err)
	}
}
