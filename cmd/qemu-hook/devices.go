package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"qemu-hook/domain"
	"qemu-hook/hook"
	"qemu-hook/hook/prepare"
	"qemu-hook/hook/topology"
	"qemu-hook/sysfs"
)

// addresses returns the PCI functions that a command names, each of which exists.
func addresses(h *hook.Host, args []string) ([]string, error) {
	if len(args) == 0 {
		return nil, usageError("no PCI function is named; want addresses such as 0000:08:00.0, see lspci -D")
	}
	var all []string
	for _, arg := range args {
		a, err := domain.ParseAddress(arg)
		if err != nil {
			return nil, usageError(fmt.Sprintf("%q is no PCI address; want one such as 0000:08:00.0, see lspci -D", arg))
		}
		if !h.Exists(sysfs.PCIDevice(a)) {
			return nil, fmt.Errorf("PCI function %s does not exist; see lspci -D for those that do", a)
		}
		if !slices.Contains(all, a) {
			all = append(all, a)
		}
	}
	return all, nil
}

// holderRow is a process that has a function open, for programs.
type holderRow struct {
	Address   string   `json:"address"`
	PID       int      `json:"pid"`
	Command   string   `json:"command"`
	Unit      string   `json:"unit"`
	UID       int      `json:"uid"`
	Container string   `json:"container"`
	Session   string   `json:"session"`
	Nodes     []string `json:"nodes"`
	InTheWay  bool     `json:"in_the_way"` // keeps a guest from having the function
}

func runHolders(o options, args []string) error {
	h, err := newHost(o)
	if err != nil {
		return err
	}
	list, err := addresses(h, args)
	if err != nil {
		return err
	}
	ctx := context.Background()
	users, unseen, err := h.EveryUser(ctx, list...)
	if err != nil {
		return err
	}
	inWay, _, err := h.SeenUsers(ctx, list...)
	if err != nil {
		return err
	}
	rows := []holderRow{}
	for _, u := range users {
		r := holderRow{Address: u.Address, PID: u.PID, Command: u.Comm, Unit: u.Unit(), UID: u.UID, Container: u.Container(), Nodes: []string{}}
		for _, n := range u.Nodes {
			r.Nodes = append(r.Nodes, n.Path)
		}
		if u.Session != nil {
			r.Session = u.Session.ID
		}
		r.InTheWay = slices.ContainsFunc(inWay, func(w hook.User) bool { return w.PID == u.PID && w.Address == u.Address })
		rows = append(rows, r)
	}
	if o.json {
		return printJSON(struct {
			Holders []holderRow `json:"holders"`
			Unseen  bool        `json:"unseen"`
		}{rows, unseen})
	}
	for _, a := range list {
		out("%s", h.FormatPCI(a))
		some := false
		for i, u := range users {
			if u.Address != a {
				continue
			}
			some = true
			way := "in the way"
			if !rows[i].InTheWay {
				way = "lets go when it is told"
			}
			out("  %s: %s", hook.DescribeUsers(h.FS, []hook.User{u}), way)
		}
		switch {
		case unseen:
			out("  not seen: what processes of other users have open; try sudo qemu-hook holders %s", a)
		case !some:
			out("  nobody has it open")
		}
	}
	return nil
}

func runGroups(o options, args []string) error {
	if len(args) > 0 {
		return usageError("groups takes no name: it shows all groups")
	}
	h, unseen, err := lookHost(o)
	if err != nil {
		return err
	}
	groups, err := topology.ReadGroups(h.FS, func(address string) string {
		if owner := h.Ledger.PCIOwner(address, ""); owner != nil {
			return owner.Name
		}
		return ""
	})
	if err != nil {
		return err
	}
	groups = slices.DeleteFunc(groups, func(g topology.Group) bool { return g.ID == "" })
	if o.json {
		return printJSON(struct {
			Groups []topology.Group `json:"groups"`
			Unseen bool             `json:"unseen"` // which guests have functions
		}{groups, unseen})
	}
	if len(groups) == 0 {
		return errors.New("there are no IOMMU groups: the IOMMU is off; turn on VT-d or AMD-Vi in the firmware, and on Intel boot with intel_iommu=on")
	}
	for _, g := range groups {
		out("group %s", g.ID)
		for _, f := range g.Functions {
			driver, guest := f.Driver, ""
			if driver == "" {
				driver = "no driver"
			}
			if f.Guest != "" {
				guest = ", guest " + f.Guest
			}
			out("  %s", strings.TrimSpace(fmt.Sprintf("%s [%s] %s (%s%s) %s", f.Address, f.ID, f.Class, driver, guest, f.Name)))
		}
	}
	if unseen {
		out("not seen: which guests have functions; try sudo qemu-hook groups")
	}
	return nil
}

func runBind(o options, args []string) error {
	return changeByHand(o, "bind", args, func(ctx context.Context, h *hook.Host, list []string) error {
		warnings, err := prepare.Bind(ctx, h, list)
		for _, w := range warnings {
			warnf("%s", w)
		}
		return err
	})
}

func runUnbind(o options, args []string) error {
	return changeByHand(o, "unbind", args, func(ctx context.Context, h *hook.Host, list []string) error {
		return h.Unbind(context.WithoutCancel(ctx), list)
	})
}

// changeByHand moves functions without a guest.
func changeByHand(o options, what string, args []string, f func(context.Context, *hook.Host, []string) error) error {
	if err := needRoot(o, what); err != nil {
		return err
	}
	h, err := newHost(o)
	if err != nil {
		return err
	}
	if err := checkProgram(h, o); err != nil {
		return err
	}
	list, err := addresses(h, args)
	if err != nil {
		return err
	}
	if h.Config, err = loadConfig(h, o); err != nil {
		return err
	}
	h.Event = hook.LogFields{Op: what, Guest: hook.HandName, UUID: hook.HandUUID, ByHand: true}
	warnOnStderr(h)
	signal.Ignore(syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	end := showProgress(h)
	err = locked(ctx, h, o, what, strings.Join(list, " "), func() error { return f(ctx, h, list) })
	end()
	if err != nil {
		return err
	}
	for _, a := range list {
		driver, err := h.PCIDriver(a)
		if err != nil {
			return err
		}
		if driver == "" {
			driver = "no driver"
		}
		out("%s: %s", a, driver)
	}
	return nil
}
