package fusetest_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"qemu-hook/sysfs/sysfstest"
	"qemu-hook/sysfs/sysfstest/fusetest"
)

// Every call by which a program can change the mounted host is asked of OnChange first: refused there, it fails with that error
// and changes nothing. A call that the model has no rule for fails.
func TestEveryChangeIsAsked(t *testing.T) {
	base := load(t)
	base.SetFile("/run/a", "abc")
	base.SetFile("/run/d/b", "b")
	base.SetFile("/run/e/.keep", "")
	base.Remove("/run/e/.keep")
	at := func(dir, name string) string { return filepath.Join(dir, "run", name) }
	open := func(name string, flags int, do func(fd int) error) error {
		fd, err := unix.Open(name, flags|unix.O_CLOEXEC, 0o600)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return do(fd)
	}
	nothing := func(int) error { return nil }
	times := []unix.Timespec{{Sec: 1}, {Sec: 1}}
	for _, c := range []struct {
		name string
		asks []string // ops; nil for a call that fails by itself or means nothing here
		do   func(dir string) error
	}{
		{"open O_CREAT", []string{"create"}, func(dir string) error { return open(at(dir, "new"), unix.O_WRONLY|unix.O_CREAT, nothing) }},
		{"open O_TRUNC", []string{"truncate"}, func(dir string) error { return open(at(dir, "a"), unix.O_WRONLY|unix.O_TRUNC, nothing) }},
		{"write", []string{"write"}, func(dir string) error {
			return open(at(dir, "a"), unix.O_WRONLY, func(fd int) error { _, err := unix.Write(fd, []byte("x")); return err })
		}},
		{"pwrite", []string{"write"}, func(dir string) error {
			return open(at(dir, "a"), unix.O_WRONLY, func(fd int) error { _, err := unix.Pwrite(fd, []byte("x"), 1); return err })
		}},
		{"write to an attribute", []string{"write"}, func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "/proc/sys/vm/compact_memory"), []byte("1"), 0)
		}},
		{"ftruncate", []string{"truncate"}, func(dir string) error {
			return open(at(dir, "a"), unix.O_WRONLY, func(fd int) error { return unix.Ftruncate(fd, 1) })
		}},
		{"truncate", []string{"truncate"}, func(dir string) error { return unix.Truncate(at(dir, "a"), 9) }},
		{"fchmod", []string{"chmod"}, func(dir string) error {
			return open(at(dir, "a"), unix.O_RDONLY, func(fd int) error { return unix.Fchmod(fd, 0o640) })
		}},
		{"chmod", []string{"chmod"}, func(dir string) error { return unix.Chmod(at(dir, "d"), 0o700) }},
		{"fchown", []string{"chown"}, func(dir string) error {
			return open(at(dir, "a"), unix.O_RDONLY, func(fd int) error { return unix.Fchown(fd, 7, -1) })
		}},
		{"lchown", []string{"chown"}, func(dir string) error { return unix.Lchown(at(dir, "a"), -1, 7) }},
		{"unlink", []string{"unlink"}, func(dir string) error { return unix.Unlink(at(dir, "a")) }},
		{"mkdir", []string{"mkdir"}, func(dir string) error { return unix.Mkdir(at(dir, "new"), 0o700) }},
		{"rmdir", []string{"rmdir"}, func(dir string) error { return unix.Rmdir(at(dir, "e")) }},
		{"rename", []string{"rename"}, func(dir string) error { return unix.Rename(at(dir, "a"), at(dir, "d/b")) }},
		{"renameat2", []string{"rename"}, func(dir string) error {
			return unix.Renameat2(unix.AT_FDCWD, at(dir, "a"), unix.AT_FDCWD, at(dir, "new"), unix.RENAME_NOREPLACE)
		}},
		{"symlink", []string{"symlink"}, func(dir string) error { return unix.Symlink("a", at(dir, "new")) }},
		{"link", []string{"link"}, func(dir string) error { return unix.Link(at(dir, "a"), at(dir, "new")) }},
		{"mknod", []string{"create"}, func(dir string) error { return unix.Mknod(at(dir, "new"), unix.S_IFIFO|0o600, 0) }},
		{"mkdir of a cgroup", []string{"mkdir"}, func(dir string) error { return unix.Mkdir(filepath.Join(dir, "sys/fs/cgroup/new"), 0o755) }},
		{"copy_file_range", []string{"write"}, func(dir string) error {
			return open(at(dir, "d/b"), unix.O_RDONLY, func(from int) error {
				return open(at(dir, "a"), unix.O_WRONLY, func(fd int) error {
					_, err := unix.CopyFileRange(from, nil, fd, nil, 1, 0)
					return err
				})
			})
		}},
		{"exchange", nil, func(dir string) error {
			return unix.Renameat2(unix.AT_FDCWD, at(dir, "a"), unix.AT_FDCWD, at(dir, "d/b"), unix.RENAME_EXCHANGE)
		}},
		{"fallocate", nil, func(dir string) error {
			return open(at(dir, "a"), unix.O_WRONLY, func(fd int) error { return unix.Fallocate(fd, 0, 0, 4096) })
		}},
		{"punch a hole", nil, func(dir string) error {
			return open(at(dir, "a"), unix.O_WRONLY, func(fd int) error {
				return unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, 1)
			})
		}},
		{"setxattr", nil, func(dir string) error { return unix.Setxattr(at(dir, "a"), "user.x", []byte("y"), 0) }},
		{"utimensat", nil, func(dir string) error { return unix.UtimesNanoAt(unix.AT_FDCWD, at(dir, "a"), times, 0) }},
		{"map shared", nil, func(dir string) error {
			return open(at(dir, "a"), unix.O_RDWR, func(fd int) error {
				_, err := unix.Mmap(fd, 0, 3, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
				return err
			})
		}},
		{"O_TMPFILE", nil, func(dir string) error { return open(at(dir, "d"), unix.O_WRONLY|unix.O_TMPFILE, nothing) }},
	} {
		t.Run(strings.ReplaceAll(c.name, " ", "-"), func(t *testing.T) {
			t.Parallel()
			for _, answer := range []error{nil, unix.EDQUOT} {
				h := base.Clone()
				dir, before := fusetest.Mount(t, h), h.Snapshot()
				var mu sync.Mutex
				var asked []string
				h.OnChange(func(c sysfstest.Change) error {
					mu.Lock()
					defer mu.Unlock()
					asked = append(asked, c.Op)
					if c.PID != os.Getpid() {
						t.Errorf("process %d is said to do it", c.PID)
					}
					return answer
				})
				err := c.do(dir)
				mu.Lock()
				defer mu.Unlock()
				if !slices.Equal(asked, c.asks) {
					t.Errorf("asked %q, want %q (%v)", asked, c.asks, err)
				}
				diff := sysfstest.Diff(before, h.Snapshot())
				var errno syscall.Errno
				switch {
				case c.asks == nil || answer != nil:
					if diff != "" {
						t.Errorf("it changes\n%s", diff)
					}
					if answer != nil && c.asks != nil && (!errors.As(err, &errno) || errno != answer) {
						t.Errorf("refused, it ends with %v", err)
					}
				case err != nil || diff == "" && c.name != "write to an attribute":
					t.Error(fmt.Errorf("it fails or changes nothing: %w", err))
				}
			}
		})
	}
}
