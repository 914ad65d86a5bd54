package hook

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"qemu-hook/cpuset"
	"qemu-hook/sysfs"
)

const (
	irqbalanceDir     = "/run/irqbalance"
	irqbalanceTimeout = 2 * time.Second // for an answer
	irqbalanceCommand = 500             // bytes that versions before 1.9.5 read of a command
	socketPath        = 107             // bytes of a socket's path at most, unix(7)
)

// An IRQBalance is the control socket of a running irqbalance, /run/irqbalance/irqbalancePID.sock. There is one since version
// 1.5.0, where the directory exists; versions 1.2.0 to 1.4.0 listen at an abstract address and are not found here. What it
// knows is in sock_handle in irqbalance.c and setup_banned_cpus in cputree.c of its source:
//
//   - A connection takes one command, in one message, and is closed by irqbalance when that is done. The message is to bring
//     SCM_CREDENTIALS with user 0; to anybody else nothing is said, and nothing done.
//   - "setup" is answered with "SLEEP seconds", "IRQ n LOAD n DIFF n CLASS n" for each banned interrupt, and "BANNED mask": the
//     CPUs that are banned for whatever reason, as of its last look at the topology.
//   - "settings cpus LIST" has no answer. It takes the place of everything that bans CPUs otherwise (except heat, since 1.9.1):
//     who wants to add to that says it again. The next look, SLEEP seconds apart (10 by default), makes it true; until then
//     "setup" has the old mask, but nothing is moved to a CPU that is banned.
//   - "settings cpus NULL" goes back to what it does by itself: IRQBALANCE_BANNED_CPUS (a mask), else IRQBALANCE_BANNED_CPULIST (since
//     1.8.0), of its environment when it started, else the kernel's isolated and nohz_full CPUs, read again then.
//   - "settings ban irqs N N…" has it leave these interrupts alone and no others, "settings ban irqs NONE" none: the list takes the
//     place of that of its option --banirq.
//   - An interrupt whose CPUs somebody else sets stays there until irqbalance distributes all of them anew: after each of these
//     commands, and when CPUs or, in some versions, interrupts have come. Only a ban of the interrupt keeps it.
type IRQBalance struct {
	dir string // that the socket is in, for this process
	pid int
}

// FindIRQBalance returns the irqbalance that runs; nil if none does that has a socket. Sockets of one that was killed are left.
func FindIRQBalance(host sysfs.FS) (*IRQBalance, error) {
	names, err := host.ListIfAny(irqbalanceDir)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		number, ok := strings.CutPrefix(name, "irqbalance")
		number, isSocket := strings.CutSuffix(number, ".sock")
		pid, err := strconv.Atoi(number)
		if !ok || !isSocket || err != nil {
			continue
		}
		comm, err := host.Read(fmt.Sprintf("/proc/%d/comm", pid))
		switch {
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ESRCH), err == nil && comm != "irqbalance":
			continue
		case err != nil:
			return nil, err
		}
		dir, err := host.Local(irqbalanceDir)
		if err != nil {
			return nil, &sysfs.Error{Op: "open", Path: irqbalanceDir, Err: err}
		}
		return &IRQBalance{dir, pid}, nil
	}
	return nil, nil //nolint:nilnil // none
}

// Banned returns the CPUs that irqbalance moves no interrupt to. What Ban told it within its last interval is not yet in them.
func (b *IRQBalance) Banned(ctx context.Context) (cpuset.Set, error) {
	answer, err := b.say(ctx, "setup")
	var banned cpuset.Set
	if err == nil {
		banned, err = parseBanned(answer)
	}
	if err != nil {
		return cpuset.Set{}, fmt.Errorf("cannot ask irqbalance (pid %d) for the CPUs that it leaves alone: %w", b.pid, err)
	}
	return banned, nil
}

// BannedIRQs returns the interrupts that irqbalance was told to leave alone, in the order in which it was told.
func (b *IRQBalance) BannedIRQs(ctx context.Context) ([]int, error) {
	answer, err := b.say(ctx, "setup")
	var irqs []int
	if err == nil {
		irqs, err = parseBannedIRQs(answer)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot ask irqbalance (pid %d) for the interrupts that it leaves alone: %w", b.pid, err)
	}
	return irqs, nil
}

// parseBanned reads the CPUs in an answer to "setup".
func parseBanned(answer string) (cpuset.Set, error) {
	_, mask, err := cutSetup(answer)
	if err != nil {
		return cpuset.Set{}, err
	}
	return cpuset.ParseMask(strings.TrimSpace(mask))
}

// parseBannedIRQs reads the interrupts in it.
func parseBannedIRQs(answer string) (irqs []int, err error) {
	settings, _, err := cutSetup(answer)
	f := strings.Fields(settings)
	for i := 0; i+1 < len(f) && err == nil; i++ {
		if f[i] != "IRQ" {
			continue
		}
		n, bad := strconv.ParseUint(f[i+1], 10, 31)
		if bad != nil {
			err = fmt.Errorf("its answer has an interrupt %q", configText(f[i+1]))
		}
		irqs = append(irqs, int(n))
	}
	if err != nil {
		return nil, err
	}
	return irqs, nil
}

// cutSetup divides an answer into what irqbalance says of its settings and its mask of banned CPUs.
func cutSetup(answer string) (settings, mask string, err error) {
	settings, mask, ok := strings.Cut(answer, "BANNED ")
	switch {
	case answer == "":
		err = errors.New("it gives no answer, as to anybody who is not root")
	case !ok:
		err = fmt.Errorf("its answer %q has no BANNED", configText(answer))
	}
	return settings, mask, err
}

// Ban has irqbalance move interrupts to none of these CPUs, and to all others; of no CPUs, to where it does by itself. When it
// returns irqbalance knows; what it has put on them it takes away within two of its intervals.
func (b *IRQBalance) Ban(ctx context.Context, cpus cpuset.Set) error {
	list := cpus.String()
	if cpus.Empty() {
		list = "NULL" // an empty list makes versions before 1.9.5 crash
	}
	if err := b.set(ctx, "cpus "+list); err != nil {
		return fmt.Errorf("cannot have irqbalance (pid %d) leave CPUs %s alone: %w", b.pid, list, err)
	}
	return nil
}

// BanIRQs has irqbalance leave these interrupts alone, and no others.
func (b *IRQBalance) BanIRQs(ctx context.Context, irqs []int) error {
	list := "NONE"
	if len(irqs) > 0 {
		list = strings.Trim(fmt.Sprint(irqs), "[]") + " 0" // which ends a list, also where nothing else does
	}
	if err := b.set(ctx, "ban irqs "+list); err != nil {
		return fmt.Errorf("cannot have irqbalance (pid %d) leave %d interrupts alone: %w", b.pid, len(irqs), err)
	}
	return nil
}

// set changes a setting. Versions before 1.9.0 put no end to what they are told, and read on behind it unless a space comes
// first.
func (b *IRQBalance) set(ctx context.Context, setting string) error {
	command := "settings " + setting + " "
	if len(command) >= irqbalanceCommand {
		return fmt.Errorf("it reads %d bytes of a command, and this has %d", irqbalanceCommand, len(command))
	}
	_, err := b.say(ctx, command)
	return err
}

// say gives irqbalance a command and returns its answer.
func (b *IRQBalance) say(ctx context.Context, command string) (answer string, err error) {
	ctx, cancel := context.WithTimeout(ctx, irqbalanceTimeout)
	defer cancel()
	defer func() {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		var op *net.OpError
		if errors.As(err, &op) {
			err = op.Err // it repeats the path, which may be one of this process
		}
	}()
	conn, err := b.dial(ctx)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })()
	who := unix.UnixCredentials(&unix.Ucred{Pid: int32(os.Getpid()), Uid: uint32(os.Geteuid()), Gid: uint32(os.Getegid())})
	if _, _, err := conn.WriteMsgUnix([]byte(command), who, nil); err != nil {
		return "", err
	}
	// It is done when it closes the connection.
	text, err := io.ReadAll(io.LimitReader(conn, 1<<20))
	return string(text), err
}

func (b *IRQBalance) dial(ctx context.Context) (*net.UnixConn, error) {
	name := fmt.Sprintf("irqbalance%d.sock", b.pid)
	at := filepath.Join(b.dir, name)
	if len(at) > socketPath {
		dir, err := unix.Open(b.dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, err
		}
		defer unix.Close(dir)
		at = fmt.Sprintf("/proc/self/fd/%d/%s", dir, name)
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", at)
	if err != nil {
		return nil, err
	}
	return conn.(*net.UnixConn), nil
}
