package main

import (
	"errors"

	"qemu-hook/hook"
	"qemu-hook/hook/suggest"
	"qemu-hook/text"
)

func runSuggest(o options, args []string) error {
	name, err := oneName(args)
	if err != nil {
		return err
	}
	h, unseen, err := lookHost(o)
	if err != nil {
		return err
	}
	n, err := readNeeds(h.FS, o, name)
	if err != nil {
		return err
	}
	cfg, err := loadConfig(h, o)
	if err == nil {
		h.Config, err = cfg.ForGuest(n.Guest.Name, n.Metadata)
	}
	if err != nil {
		return err
	}
	if unseen {
		warnf("what other guests have is not seen: that needs root")
	}
	s, err := suggest.For(h, n)
	var no *suggest.NoFit
	if errors.As(err, &no) {
		for _, r := range no.Reasons {
			errorf("%s", r)
		}
		if no.VCPUs > 0 {
			hintf("%s would fit with <vcpu>%d</vcpu> and <memory unit='KiB'>%d</memory> (%s)", n.Guest.Name, no.VCPUs, no.Bytes>>10, hook.FormatBytes(no.Bytes))
		}
		return errSaid
	} else if err != nil {
		return err
	}
	copyOut(text.Lines(s.XML()))
	return nil
}
