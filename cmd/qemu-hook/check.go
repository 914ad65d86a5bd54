package main

import (
	"context"
	"errors"
	"io/fs"
	"os"

	"qemu-hook/domain"
	"qemu-hook/hook"
	"qemu-hook/hook/prepare"
	"qemu-hook/hook/scripts"
	"qemu-hook/sysfs"
)

// runCheck says why a guest would not start, and looks around: at the host and at what else is a hook there. Without a guest
// it only looks around.
func runCheck(o options, args []string) error {
	if o.configOnly {
		return checkConfig(o, args)
	}
	ctx := context.Background()
	if len(args) == 0 && o.xml == "" && !stdinHasBytes() {
		h, err := newHost(o)
		if err != nil {
			return err
		}
		if h.Config, err = loadConfig(h, o); err != nil {
			return err
		}
		found := lookAround(ctx, h, o, nil)
		if err := printFindings(found); err != nil {
			return err
		}
		if len(found) > 0 {
			out("no more than advice; a guest: qemu-hook check NAME")
		} else {
			out("nothing is in the way of qemu-hook; a guest: qemu-hook check NAME")
		}
		return nil
	}
	h, n, p, err := planOf(o, args)
	if err != nil {
		return err
	}
	for _, w := range p.Warnings {
		warnf("%s", w)
	}
	for _, r := range p.Refusals {
		errorf("%s", r)
	}
	if len(p.Refusals) > 0 {
		hintf("%s would not start; qemu-hook plan shows the rest", p.Guest.Name)
		return errSaid
	}
	advice, found := p.Advice(ctx, h), lookAround(ctx, h, o, n)
	for _, a := range advice {
		out("advice: %s", a)
	}
	if err := printFindings(found); err != nil {
		return err
	}
	if len(p.Warnings)+len(advice)+len(found) > 0 {
		out("%s: no more than warnings and advice", p.Guest.Name)
	} else {
		out("%s: nothing is in the way", p.Guest.Name)
	}
	return nil
}

// checkConfig reads a configuration as prepare would, wherever it lies and whoever owns it: it may be built for another
// machine.
func checkConfig(o options, args []string) error {
	if len(args) > 0 || o.xml != "" {
		return usageError("check --config-only looks at no guest")
	}
	host, err := sysfs.New(o.rootDir())
	if err != nil {
		return err
	}
	name, data, err := configText(host, o)
	if errors.Is(err, fs.ErrNotExist) && o.config == "" {
		out("%s is not there: the defaults hold", name)
		return nil
	} else if err != nil {
		return err
	}
	if _, err := hook.ParseConfig(name, data); err != nil {
		return err
	}
	out("%s: nothing is wrong", name)
	return nil
}

func lookAround(ctx context.Context, h *hook.Host, o options, n *domain.Needs) []hook.Finding {
	look := scripts.Look{Confined: prepare.AppArmorConfinesHooks(h.FS)}
	if o.root != "" {
		look.Owner = os.Geteuid() // who stands for root
	}
	return append(prepare.Around(ctx, h, n), scripts.Around(h.FS, look)...)
}

// printFindings prints advice, and what cannot work as an error.
func printFindings(all []hook.Finding) error {
	var failed error
	for _, f := range all {
		if f.Certain {
			errorf("%s", f.Text)
			failed = errSaid
			continue
		}
		out("advice: %s", f.Text)
	}
	return failed
}
