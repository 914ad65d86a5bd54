package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"time"

	"qemu-hook/domain"
	"qemu-hook/hook"
	"qemu-hook/hook/prepare"
	"qemu-hook/hook/release"
	state "qemu-hook/journal"
	"qemu-hook/sysfs/sysfstest"
	"qemu-hook/testdata"
)

// runDemo does the main job on a model of a host, with the code that does it on a real one. The model's files are in
// memory; only the hook's own state lies in a temporary folder.
func runDemo(o options, args []string) error {
	if len(args) > 0 {
		return usageError("demo takes no arguments")
	}
	model, err := sysfstest.Parse("demo", testdata.DemoHost())
	if err != nil {
		return err
	}
	defer model.Close()
	n, err := domain.Parse(bytes.NewReader(testdata.DemoDomain()))
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "qemu-hook-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	h := &hook.Host{
		FS: model.FS(), Systemd: model.Systemd(), State: state.Open(dir+"/state", "demo"),
		Config: hook.DefaultConfig(), Ledger: &hook.Ledger{Guests: map[string]*hook.Guest{}}, Now: time.Now,
	}
	return demo(context.Background(), h, model, n)
}

func demo(ctx context.Context, h *hook.Host, model *sysfstest.Host, n *domain.Needs) error {
	inline := func(*os.File) hook.SlowRunner { return hook.Inline{FS: h.FS} }
	before := model.Snapshot()

	out("A host with 20 CPUs, an AMD card of its own and an NVIDIA card for the guest; none of it is real.")
	demoState(h)

	out("\nWhat the domain XML of %q asks for (qemu-hook needs):\n", n.Guest.Name)
	printNeeds(n)

	out("\nWhat will be done before it starts (qemu-hook plan):\n")
	plan, err := prepare.NewPlan(ctx, h, n)
	if err != nil {
		return err
	}
	printPlan(plan)

	out("\nlibvirt starts the guest (qemu-hook %s prepare begin -):\n", n.Guest.Name)
	if err := h.Locked(ctx, "demo", inline, func() error {
		_, err := prepare.Run(ctx, h, n, hook.Caller{})
		return err
	}); err != nil {
		return err
	}
	demoState(h)

	out("\nThe guest is gone (qemu-hook %s release end shutdown):\n", n.Guest.Name)
	if err := h.Locked(ctx, "demo", inline, func() error {
		return release.Run(ctx, h, n.Guest.UUID, n.Guest.Name, false)
	}); err != nil {
		return err
	}
	demoState(h)

	if diff := sysfstest.Diff(before, model.Snapshot()); diff != "" {
		return fmt.Errorf("the host is not as before:\n%s", diff)
	}
	out("\nEvery file of the host was compared with its state before: no difference.")
	return nil
}

// demoState prints what of the host the main job is about, as files that can be looked at on a real one.
func demoState(h *hook.Host) {
	for _, address := range []string{"0000:08:00.0", "0000:08:00.1", "0000:09:00.0"} {
		out("  %-24s driver %s", address, orNone(h.PCIDriver(address)))
	}
	out("  %-24s %s", "huge pages on node 0", orNone(h.Read("/sys/devices/system/node/node0/hugepages/hugepages-2048kB/nr_hugepages")))
	for _, unit := range h.Config.CPUs.Units {
		cpus, _, err := h.EffectiveCPUs(unit)
		out("  %-24s CPUs %s", unit, orNone(cpus.String(), err))
	}
	file := "none"
	if st, err := h.Lstat("/dev/shm/looking-glass"); err == nil {
		file = fmt.Sprintf("%s, mode %04o, owner %s", hook.FormatBytes(uint64(st.Size)), st.Perm(), h.UserName(st.UID))
	}
	out("  %-24s %s", "/dev/shm/looking-glass", file)
}

func orNone(s string, err error) string {
	switch {
	case err != nil:
		return err.Error()
	case s == "":
		return "none"
	}
	return s
}
