package sysfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"qemu-hook/cpuset"
)

// maxOutput is as much of a program's output as is kept.
const maxOutput = 64 << 10

// lingering is how long a program that has ended is read from, if what it has left running holds its output open.
const lingering = time.Second

// Execute gives the program a pipe of its own, so that whoever waits for the end of this process's output does not wait for
// what the program leaves behind.
func (k osKernel) Execute(ctx context.Context, p Program) ([]byte, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	cmd := exec.Command(k.path(p.Path), p.Args...)
	cmd.Dir = "/"
	cmd.Env = p.Env
	cmd.Stdout = w
	if p.Stderr {
		cmd.Stderr = w
	}
	// It ends with this process: a hook that is killed leaves no command at work beside what comes next. The signal comes at the end
	// of the thread that started it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: unix.SIGKILL}
	err = cmd.Start()
	w.Close()
	if err != nil {
		return nil, errno(err)
	}
	done := make(chan error, 1)
	go func() {
		err := cmd.Wait()
		_ = r.SetReadDeadline(time.Now().Add(lingering))
		done <- err
	}()
	stop := context.AfterFunc(ctx, func() { _ = r.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	out, rerr := io.ReadAll(io.LimitReader(r, maxOutput))
	if rerr == nil {
		_, rerr = io.Copy(io.Discard, r) // else the program waits for ever with what is beyond
	}
	select {
	case err = <-done:
	case <-ctx.Done():
		_ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL)
		return out, fmt.Errorf("%s does not end: %w", p.Path, ctx.Err())
	}
	if err == nil && rerr != nil && !errors.Is(rerr, os.ErrDeadlineExceeded) {
		err = rerr
	}
	if err != nil {
		return out, fmt.Errorf("%s: %w", p.Path, err)
	}
	return out, nil
}

// Signal goes through a descriptor of the process, so that it cannot reach a later one with the same number. Processes
// belong to the running host alone: under another root there is nobody to signal.
func (k osKernel) Signal(pid int, start uint64, signal syscall.Signal) error {
	if k.root != "/" {
		return unix.EOPNOTSUPP
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	// Opened before it is looked at: if this is the right one now, the descriptor is of it.
	if alive, err := (Process{PID: pid, Start: start}).Alive(FS{k}); err != nil {
		return err
	} else if !alive {
		return unix.ESRCH
	}
	return unix.PidfdSendSignal(fd, signal, nil, 0)
}

// maxCPUs is as many CPUs as Linux can be built for (NR_CPUS of x86 with MAXSMP); [unix.CPUSet] holds 1024.
const maxCPUs = 8192

// cpuMask is a set of CPUs as the kernel's calls have it.
type cpuMask [maxCPUs / 64]uint64

// call makes one of the calls that take a thread and a mask.
func (m *cpuMask) call(trap uintptr, pid int) error {
	_, _, err := unix.RawSyscall(trap, uintptr(pid), unsafe.Sizeof(*m), uintptr(unsafe.Pointer(m)))
	if err != 0 {
		return err
	}
	return nil
}

// Affinity has no answer under another root, where there are no threads.
func (k osKernel) Affinity(pid int) (cpuset.Set, error) {
	if k.root != "/" {
		return cpuset.Set{}, unix.EOPNOTSUPP
	}
	var m cpuMask // cleared: the kernel fills as much as it has CPUs
	if err := m.call(unix.SYS_SCHED_GETAFFINITY, pid); err != nil {
		return cpuset.Set{}, err
	}
	var cpus []int
	for cpu := range maxCPUs {
		if m[cpu/64]>>(cpu%64)&1 != 0 {
			cpus = append(cpus, cpu)
		}
	}
	return cpuset.Of(cpus...), nil
}

// SetAffinity looks whether it is the right thread right before: there is no descriptor for this call.
func (k osKernel) SetAffinity(pid int, start uint64, cpus cpuset.Set) error {
	if k.root != "/" {
		return unix.EOPNOTSUPP
	}
	var m cpuMask
	for cpu := range cpus.All() {
		if cpu < maxCPUs {
			m[cpu/64] |= 1 << (cpu % 64)
		}
	}
	if alive, err := (Process{PID: pid, Start: start}).Alive(FS{k}); err != nil {
		return err
	} else if !alive {
		return unix.ESRCH
	}
	return m.call(unix.SYS_SCHED_SETAFFINITY, pid)
}

// UnloadModule asks the running kernel; a model of a host, under another root, has modprobe.
func (k osKernel) UnloadModule(name string) error {
	if k.root == "/" {
		return unix.DeleteModule(moduleName(name), unix.O_NONBLOCK)
	}
	return FS{k}.UnloadByModprobe(name)
}

// UnloadByModprobe unloads a module by the program that loads them, for a host that is not the running one: EAGAIN if that
// does not work.
func (h FS) UnloadByModprobe(name string) error {
	modprobe, err := h.Read("/proc/sys/kernel/modprobe")
	if err != nil {
		return err
	}
	err = h.Run(context.Background(), modprobe, "--remove", name)
	var failed *exec.ExitError
	if errors.As(err, &failed) {
		return syscall.EAGAIN
	}
	return err
}

// OpenDevices has nothing to say of this process itself, which opens no device.
func (k osKernel) OpenDevices(pid int, visit func(rdev uint64, block bool)) error {
	if k.root == "/" && pid == os.Getpid() {
		return nil
	}
	fd, err := k.open("/proc/"+strconv.Itoa(pid)+"/fd", unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	buf := make([]byte, 8192)
	for {
		n, err := unix.ReadDirent(fd, buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n <= 0 {
			return err
		}
		_, _, names := unix.ParseDirent(buf[:n], -1, nil)
		for _, name := range names {
			if rdev, block, ok := k.openDevice(fd, name); ok {
				visit(rdev, block)
			}
		}
	}
}

// openDevice looks at an open file without asking its file system, which may be one of a network that is gone.
func (k osKernel) openDevice(dir int, name string) (rdev uint64, block, ok bool) {
	if k.root != "/" {
		// The links of another root lead into that root.
		buf := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(dir, name, buf)
		if err != nil || n == 0 || buf[0] != '/' {
			return 0, false, false
		}
		st, err := k.Lstat(string(buf[:n]))
		return st.Rdev, st.Type() == unix.S_IFBLK, err == nil && (st.Type() == unix.S_IFCHR || st.Type() == unix.S_IFBLK)
	}
	var st unix.Statx_t
	err := unix.Statx(dir, name, unix.AT_STATX_DONT_SYNC|unix.AT_NO_AUTOMOUNT, unix.STATX_TYPE, &st)
	kind := st.Mode & unix.S_IFMT
	return unix.Mkdev(st.Rdev_major, st.Rdev_minor), kind == unix.S_IFBLK, err == nil && (kind == unix.S_IFCHR || kind == unix.S_IFBLK)
}
