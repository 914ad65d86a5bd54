package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"qemu-hook/domain"
	"qemu-hook/hook"
	"qemu-hook/hook/prepare"
	"qemu-hook/hook/release"
	"qemu-hook/sysfs"
)

// A command is what a person can ask for.
type command struct {
	name   string
	args   string // for the usage line
	text   string // for help
	xml    bool   // takes --xml
	config bool   // takes --config
	json   bool   // takes --json
	svg    bool   // takes --svg
	only   bool   // takes --config-only
	// flags adds what only this command takes.
	flags func(*flag.FlagSet, *options)
	run   func(o options, args []string) error
}

// commands returns them in the order of the help.
func commands() []command {
	return []command{
		{name: "prepare", args: "NAME [begin]", text: helpPrepare, xml: true, config: true, run: runOp("prepare")},
		{name: "release", args: "NAME [end]", text: helpRelease, xml: true, config: true, run: runOp("release")},
		{name: "start", args: "NAME [begin]", text: helpNothing, xml: true, config: true, run: runOp("start")},
		{name: "started", args: "NAME [begin]", text: helpStarted, xml: true, config: true, run: runOp("started")},
		{name: "stopped", args: "NAME [end]", text: helpNothing, xml: true, config: true, run: runOp("stopped")},
		{name: "reconnect", args: "NAME [begin]", text: helpReconnect, xml: true, config: true, run: runOp("reconnect")},
		{name: "plan", args: "[NAME]", text: helpPlan, xml: true, config: true, json: true, run: runPlan},
		{name: "needs", args: "[NAME]", text: helpNeeds, xml: true, json: true, run: runNeeds},
		{name: "check", args: "[NAME]", text: helpCheck, xml: true, config: true, only: true, run: runCheck},
		{name: "status", args: "", text: helpStatus, json: true, run: runStatus},
		{name: "log", args: "[NAME]", text: helpLog, json: true, flags: logFlags, run: runLog},
		{name: "recover", args: "[NAME]", text: helpRecover, config: true, run: runRecover},
		{name: "holders", args: "ADDRESS…", text: helpHolders, json: true, run: runHolders},
		{name: "groups", args: "", text: helpGroups, json: true, run: runGroups},
		{name: "topology", args: "", text: helpTopology, json: true, svg: true, run: runTopology},
		{name: "suggest", args: "[NAME]", text: helpSuggest, xml: true, config: true, run: runSuggest},
		{name: "snapshot", args: "[FILE]", text: helpSnapshot, config: true, run: runSnapshot},
		{name: "bind", args: "ADDRESS…", text: helpBind, config: true, run: runBind},
		{name: "unbind", args: "ADDRESS…", text: helpUnbind, config: true, run: runUnbind},
		{name: "import", args: "[DIR]", text: helpImport, run: runImport},
		{name: "install", args: "", text: helpInstall, flags: installFlags, run: runInstall},
		{name: "uninstall", args: "", text: helpUninstall, flags: uninstallFlags, run: runUninstall},
		{name: "demo", args: "", text: helpDemo, run: runDemo},
		{name: "version", args: "", text: helpVersion, run: runVersion},
		{name: "help", args: "[COMMAND]", text: helpHelp, run: runHelp},
	}
}

// commandNames returns the words that tell a person's call from libvirt's.
func commandNames() []string {
	var names []string
	for _, c := range commands() {
		names = append(names, c.name)
	}
	return names
}

func runCommand(o options, args []string) int {
	if len(args) == 0 {
		copyErr(usage())
		return 2
	}
	switch args[0] {
	case "-h", "-help", "--help":
		args[0] = "help"
	case "--version":
		args[0] = "version"
	}
	all := commands()
	i := slices.IndexFunc(all, func(c command) bool { return c.name == args[0] })
	if i < 0 {
		return fail(usageError(fmt.Sprintf("there is no command %q; libvirt's own call has four arguments: NAME OP SUBOP EXTRA", args[0])))
	}
	c := all[i]
	rest, err := parseFlags(c, &o, args[1:])
	switch {
	case errors.Is(err, flag.ErrHelp):
		copyOut(c.help())
		return 0
	case err != nil:
		return c.fail(usageError(fmt.Sprintf("%s: %v", c.name, err)))
	}
	if err := c.run(o, rest); err != nil {
		return c.fail(err)
	}
	return 0
}

func (c command) fail(err error) int {
	var usage usageError
	if errors.As(err, &usage) && c.name != "help" {
		return failUsage(usage, "qemu-hook help "+c.name+" says what it takes")
	}
	return fail(err)
}

// flagSet returns the command's flags. The usage of one that takes a value is the value's name.
func (c command) flagSet(o *options) *flag.FlagSet {
	set := flag.NewFlagSet(c.name, flag.ContinueOnError)
	set.SetOutput(io.Discard)
	set.Func("root", "DIR", o.setRoot)
	if c.config {
		set.StringVar(&o.config, "config", "", "FILE")
	}
	if c.xml {
		set.StringVar(&o.xml, "xml", "", "FILE")
	}
	if c.json {
		set.BoolVar(&o.json, "json", false, "")
	}
	if c.only {
		set.BoolVar(&o.configOnly, "config-only", false, "")
	}
	if c.svg {
		set.StringVar(&o.svg, "svg", "", "FILE")
	}
	if c.flags != nil {
		c.flags(set, o)
	}
	return set
}

// parseFlags takes the flags from wherever they stand, before or after the name; after "--" all is names.
func parseFlags(c command, o *options, args []string) ([]string, error) {
	set := c.flagSet(o)
	var names []string
	for len(args) > 0 {
		if args[0] == "--" {
			return append(names, args[1:]...), nil
		}
		if err := set.Parse(args); err != nil {
			return nil, err
		}
		// Parse stops at the first name, and swallows a "--" before it.
		if n := len(args) - set.NArg(); n > 0 && args[n-1] == "--" {
			return append(names, set.Args()...), nil
		}
		if args = set.Args(); len(args) > 0 {
			names, args = append(names, args[0]), args[1:]
		}
	}
	return names, nil
}

// oneName returns the guest's name, "" if none is given.
func oneName(args []string) (string, error) {
	switch len(args) {
	case 0:
		return "", nil
	case 1:
		return args[0], nil
	}
	return "", usageError(fmt.Sprintf("one guest at most, not %s; a name with spaces needs quotes", strings.Join(args, " ")))
}

// runOp is an operation of libvirt's, by hand.
func runOp(op string) func(options, []string) error {
	return func(o options, args []string) error {
		if len(args) == 2 && (args[1] == "begin" || args[1] == "end" || args[1] == "-") {
			args = args[:1]
		}
		name, err := oneName(args)
		if err != nil {
			return err
		}
		if !acts(op) {
			return nil
		}
		if err := needRoot(o, op); err != nil {
			return err
		}
		h, err := newHost(o)
		if err != nil {
			return err
		}
		var n *domain.Needs
		if op == "prepare" {
			if n, err = readNeeds(h.FS, o, name); err != nil {
				return err
			}
		} else if n, err = recordedGuest(h, o, name); err != nil {
			return err
		}
		nothing := op != "prepare" && !holds(h, n.Guest.UUID)
		if nothing && !onRecord(h) {
			out("%s holds nothing", n.Guest.Name)
			return nil
		}
		warnOnStderr(h)
		stop := showProgress(h)
		err = act(h, o, op, n, hook.Caller{ByHand: true})
		stop()
		switch {
		case err != nil:
			return err
		case nothing:
			out("%s holds nothing", n.Guest.Name)
		default:
			out("%s: %s done", n.Guest.Name, op)
		}
		return nil
	}
}

// warnOnStderr has the host's warnings printed as well as logged; errors are the command's to print.
func warnOnStderr(h *hook.Host) {
	log := h.Log
	h.Log = func(s hook.Severity, msg string) {
		if s == hook.Warning {
			warnf("%s", msg)
		}
		if log != nil {
			log(s, msg)
		}
	}
}

// recordedGuest names a guest for an operation that goes by what is recorded: by its name, or by an XML.
func recordedGuest(h *hook.Host, o options, name string) (*domain.Needs, error) {
	if err := h.LoadLedger(); err != nil {
		return nil, err
	}
	uuid, _ := h.Ledger.Find("", name)
	if name == "" || o.xml != "" {
		n, err := readNeeds(h.FS, o, name)
		if err != nil {
			return nil, err
		}
		uuid, name = n.Guest.UUID, n.Guest.Name
	}
	return &domain.Needs{Guest: domain.Guest{Name: name, UUID: uuid}}, nil
}

func needRoot(o options, what string) error {
	if os.Geteuid() != 0 && o.root == "" {
		return fmt.Errorf("%s changes the host and needs root; try sudo qemu-hook %s …", what, what)
	}
	return nil
}

func runNeeds(o options, args []string) error {
	name, err := oneName(args)
	if err != nil {
		return err
	}
	host, err := sysfs.New(o.rootDir())
	if err != nil {
		return err
	}
	n, err := readNeeds(host, o, name)
	if err != nil {
		return err
	}
	if o.json {
		return printJSON(n)
	}
	printNeeds(n)
	return nil
}

// planOf plans as prepare would, without the lock. An ordinary user may not see what guests hold: the plan says so.
func planOf(o options, args []string) (*hook.Host, *domain.Needs, *prepare.Plan, error) {
	name, err := oneName(args)
	if err != nil {
		return nil, nil, nil, err
	}
	h, err := newHost(o)
	if err != nil {
		return nil, nil, nil, err
	}
	n, err := readNeeds(h.FS, o, name)
	if err != nil {
		return nil, nil, nil, err
	}
	cfg, err := loadConfig(h, o)
	if err == nil {
		cfg, err = cfg.ForGuest(n.Guest.Name, n.Metadata)
	}
	if err != nil {
		return nil, nil, nil, err
	}
	h.Config = cfg
	unseen := false
	if err := h.LoadLedger(); errors.Is(err, os.ErrPermission) {
		h.Ledger = &hook.Ledger{Guests: map[string]*hook.Guest{}}
		h.State, unseen = nil, true
	} else if err != nil {
		return nil, nil, nil, err
	}
	if !cfg.Enabled || n.Empty() {
		return h, n, &prepare.Plan{Guest: n.Guest}, nil
	}
	p, err := prepare.NewPlan(context.Background(), h, n)
	if err != nil {
		return nil, nil, nil, err
	}
	if unseen {
		p.Warnings = append(p.Warnings, "what other guests hold is not seen: that needs root")
	}
	return h, n, p, nil
}

func runPlan(o options, args []string) error {
	_, _, p, err := planOf(o, args)
	if err != nil {
		return err
	}
	if o.json {
		return printJSON(planJSON(p))
	}
	printPlan(p)
	return nil
}

func runRecover(o options, args []string) error {
	name, err := oneName(args)
	if err != nil {
		return err
	}
	if err := needRoot(o, "recover"); err != nil {
		return err
	}
	h, err := newHost(o)
	if err != nil {
		return err
	}
	h.Event = hook.LogFields{Op: "recover", Guest: name}
	if cfg, err := loadConfig(h, o); err == nil {
		h.Config = cfg
	}
	if !onRecord(h) {
		if name != "" {
			return fmt.Errorf("no guest %q is on record; see qemu-hook status", name)
		}
		// After a reboot the figures are those of guests that are no more.
		leaveMetrics(h, o, hook.Outcome{Op: "recover"})
		out("no guest holds anything")
		return nil
	}
	if err := checkProgram(h, o); err != nil {
		warnf("%v", err)
	}
	var all []release.Recovery
	signal.Ignore(syscall.SIGPIPE)
	stop := showProgress(h)
	err = locked(context.Background(), h, o, "recover", name, func() error {
		all, err = release.Recover(context.Background(), h, name)
		return err
	})
	stop()
	failed := err != nil
	for _, r := range all {
		switch {
		case r.Kept != "":
			out("%s: kept, %s", r.Name, r.Kept)
		case r.Err == nil:
			out("%s: given back", r.Name)
		}
		if r.Err != nil {
			errorf("%s: %v", r.Name, r.Err)
			failed = true
		}
	}
	if err != nil {
		return err
	}
	if failed {
		return errSaid
	}
	return nil
}

func runVersion(_ options, args []string) error {
	if len(args) > 0 {
		return usageError("version takes no arguments")
	}
	out("qemu-hook %s", version)
	return nil
}

func runHelp(_ options, args []string) error {
	switch len(args) {
	case 0:
		copyOut(usage())
		return nil
	case 1:
	default:
		return usageError("help takes one command, not " + strings.Join(args, " "))
	}
	for _, c := range commands() {
		if c.name == args[0] {
			copyOut(c.help())
			return nil
		}
	}
	return usageError(fmt.Sprintf("there is no command %q", args[0]))
}
