package test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// roleEnv has the tests' own program do something else, as a process beside them.
const roleEnv = "QEMU_HOOK_TEST_ROLE"

// built is where the program was built, once for all tests.
var built struct {
	once sync.Once
	dir  string
	err  error
}

func TestMain(m *testing.M) {
	switch os.Getenv(roleEnv) {
	case "measure":
		os.Exit(measure(os.Args[1:]))
	case "swap":
		os.Exit(swap(os.Args[1], os.Args[2]))
	}
	status := m.Run()
	if built.dir != "" {
		if err := os.RemoveAll(built.dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			status = 1
		}
	}
	os.Exit(status)
}

// program returns the program as it is shipped: static, without the race detector.
func program(t testing.TB) string {
	t.Helper()
	built.once.Do(func() {
		if built.dir, built.err = os.MkdirTemp("", "qemu-hook-test-"); built.err != nil {
			return
		}
		cmd := exec.Command("go", "build", "-trimpath", "-o", filepath.Join(built.dir, "qemu-hook"), "./cmd/qemu-hook")
		cmd.Dir = ".."
		cmd.Env = append(cmd.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			built.err = fmt.Errorf("%w: %s", err, out)
		}
	})
	if built.err != nil {
		t.Fatalf("cannot build the program: %v", built.err)
	}
	return filepath.Join(built.dir, "qemu-hook")
}

// domainXML returns a domain of testdata and its name.
func domainXML(t testing.TB, name string) []byte {
	t.Helper()
	xml, err := os.ReadFile(filepath.Join("../testdata/domains", name+".xml"))
	if err != nil {
		t.Fatal(err)
	}
	return xml
}

// exitStatus is how a process ended: its exit status, -1 for a signal.
func exitStatus(err error) (int, error) {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0, nil
	case errors.As(err, &exit):
		return exit.ExitCode(), nil
	}
	return 0, err
}
