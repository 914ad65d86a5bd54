package main

import (
	"context"
	"os"

	"qemu-hook/domain"
	"qemu-hook/hook"
	"qemu-hook/hook/prepare"
	"qemu-hook/hook/scripts"
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
		if err := printFindings(lookAround(ctx, h, o, nil)); err != nil {
			return err
		}
		out("nothing is in the way of qemu-hook; a guest: qemu-hook check NAME")
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
	for _, a := range p.Advice(ctx, h) {
		out("advice: %s", a)
	}
	if err := printFindings(lookAround(ctx, h, o, n)); err != nil {
		return err
	}
	out("%s: nothing is in the way", p.Guest.Name)
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
