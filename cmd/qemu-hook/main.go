// Command qemu-hook prepares a host for a libvirt guest with passed-through PCI functions, pinned CPUs and huge pages,
// and gives everything back afterwards. libvirtd runs it as its qemu hook; people run it to see and to mend.
//
// The runtime need not look at the control group for a number of processors: the program is short, and its start is
// what every event of every guest pays for.
//
//go:debug containermaxprocs=0
//go:debug updatemaxprocs=0
package main

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"

	"qemu-hook/hook"
)

// version is set by the build: -ldflags "-X main.version=1.2.3".
var version = "devel"

func main() { os.Exit(run(os.Args[1:])) }

// run is the whole program. The order is that of the contract with libvirt: its call is told from a person's before
// anything else, and an event that asks nothing costs nothing.
func run(args []string) int {
	if ev, ok := hook.ParseEvent(args, commandNames()); ok {
		return handleEvent(options{}, ev)
	}
	opts, rest, err := takeRoot(args)
	if err != nil {
		return fail(err)
	}
	if ev, ok := hook.ParseEvent(rest, commandNames()); ok && opts.root != "" {
		return handleEvent(opts, ev)
	}
	if len(rest) > 0 {
		switch rest[0] {
		case hook.WorkerCommand:
			return runWorker(rest[1:])
		case hook.AttendCommand:
			return runAttend(opts, rest[1:])
		case hook.InhibitCommand:
			return runInhibit(opts, rest[1:])
		}
	}
	return runCommand(opts, rest)
}

// options are the flags that all commands share.
type options struct {
	root   string // "" is the running host
	config string
	xml    string
	json   bool
	svg    string
	// configOnly has check look at nothing but the configuration.
	configOnly bool
	// dryRun has install and uninstall say what they would do, replace has install move aside what is in the way.
	dryRun, replace bool
	// all has log show all that is remembered, follow what comes.
	all, follow bool
}

// takeRoot takes --root DIR from before libvirt's arguments or a command.
func takeRoot(args []string) (options, []string, error) {
	var o options
	if len(args) == 0 {
		return o, args, nil
	}
	name, value, has := strings.Cut(args[0], "=")
	if name != "--root" && name != "-root" {
		return o, args, nil
	}
	if !has {
		if len(args) < 2 {
			return o, nil, usageError("--root needs a directory")
		}
		value, args = args[1], args[1:]
	}
	return o, args[1:], o.setRoot(value)
}

// setRoot takes a directory for the root. An empty name is a slip, as of a variable that is not set, and must not mean
// the running host.
func (o *options) setRoot(dir string) error {
	if dir == "" {
		return usageError("--root needs a directory")
	}
	abs, err := filepath.Abs(dir)
	o.root = abs
	return err
}

// beThrifty keeps the runtime from work that pays only in longer lives: one thing is done after the other, so more
// processors would only look for work, and the program ends before a collection is due.
func beThrifty() {
	runtime.GOMAXPROCS(1)
	debug.SetGCPercent(400)
}

func runWorker(args []string) int {
	beThrifty()
	if len(args) != 1 {
		return fail(usageError("worker is started by the hook itself, it is no command for people"))
	}
	if err := hook.RunWorker(args[0]); err != nil {
		return fail(err)
	}
	return 0
}

// A usageError is a command line that cannot be understood: exit status 2.
type usageError string

func (e usageError) Error() string { return string(e) }

// errSaid ends a command with status 1 when all that is to say was said.
var errSaid = errors.New("")
