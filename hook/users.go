package hook

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"qemu-hook/sysfs"
)

// A User is a process that uses a PCI function.
type User struct {
	sysfs.Holder
	Address string // of the function
	// Session is for whom a session keeper, such as systemd-logind, has the node open; nil for all others.
	Session *sysfs.Session
}

// Users returns the processes that keep functions from being taken: those that have one of their nodes open or mapped, but
// for sound and input devices, whose users let go when they are told.
//
// Nodes that all cards of a driver share prove nothing as long as the host keeps another such card.
func (h *Host) Users(ctx context.Context, addresses ...string) ([]User, error) {
	users, _, err := h.SeenUsers(ctx, addresses...)
	return users, err
}

// Unseen says that the users of functions could not be seen whole, though this is root.
func Unseen(functions string) string {
	return "cannot tell who uses " + functions + ": the open files of some processes are not to be seen, also not by root; " +
		"where SELinux confines libvirt's hooks: setsebool -P virt_hooks_unconfined 1"
}

// SeenUsers is [Host.Users], and says whether there were processes that could not be looked at.
func (h *Host) SeenUsers(ctx context.Context, addresses ...string) (users []User, unseen bool, err error) {
	return h.users(ctx, addresses, func(n sysfs.DeviceNode) bool {
		switch n.Kind {
		case sysfs.NodeNVIDIA, sysfs.NodeDRM, sysfs.NodeKFD, sysfs.NodeI2C:
			return true
		}
		return false
	})
}

// usersOfNodes returns whoever has one of a function's nodes open, also when the function has none any more.
func (h *Host) usersOfNodes(ctx context.Context, address string, nodes []sysfs.DeviceNode) []User {
	holders, _, err := h.Holders(ctx, nodes)
	if err != nil {
		return nil
	}
	var users []User
	for _, o := range holders {
		users = append(users, User{Holder: o, Address: address})
	}
	return users
}

// EveryUser returns whoever has any node of the functions open, and says whether there were processes that could not be
// looked at.
func (h *Host) EveryUser(ctx context.Context, addresses ...string) (users []User, unseen bool, err error) {
	return h.users(ctx, addresses, func(sysfs.DeviceNode) bool { return true })
}

func (h *Host) users(ctx context.Context, addresses []string, counts func(sysfs.DeviceNode) bool) (users []User, unseen bool, err error) {
	var all []sysfs.DeviceNode
	owner := map[string]string{} // by node
	watched, missed := h.Wary()
	for _, address := range addresses {
		nodes, err := watched.DeviceNodes(address)
		if err == nil {
			err = missed() // a node that is not known is looked for in vain
		}
		if err != nil {
			return nil, false, err
		}
		proof, err := h.sharedProves(address, addresses)
		if err != nil {
			return nil, false, err
		}
		for _, n := range nodes {
			if !counts(n) || n.Shared && n.Kind == sysfs.NodeNVIDIA && !proof {
				continue
			}
			if _, known := owner[n.Path]; !known {
				owner[n.Path] = address
				all = append(all, n)
			}
		}
	}
	if len(all) == 0 {
		return nil, false, nil
	}
	holders, unseen, err := h.Holders(ctx, all)
	if err != nil {
		return nil, unseen, err
	}
	for _, o := range holders {
		byFunction := map[string][]sysfs.DeviceNode{}
		for _, n := range o.Nodes {
			a := owner[n.Path]
			if n.Kind == sysfs.NodeKFD && !h.usesKFD(o.PID, a) {
				continue
			}
			byFunction[a] = append(byFunction[a], n)
		}
		for _, a := range addresses {
			if len(byFunction[a]) == 0 {
				continue
			}
			u := User{Holder: o, Address: a}
			u.Nodes = byFunction[a]
			if u.IsSessionKeeper() {
				u.Session = h.sessionWith(u.Nodes)
			}
			users = append(users, u)
		}
	}
	return users, unseen, nil
}

// sharedProves reports whether the function's driver has no card but those named: then whoever has one of the driver's
// shared nodes open uses one of these.
func (h *Host) sharedProves(address string, addresses []string) (bool, error) {
	driver, err := h.PCIDriver(address)
	if err != nil || driver == "" {
		return true, err
	}
	cards, err := h.DriverDevices(driver)
	if err != nil {
		return false, err
	}
	return !slices.ContainsFunc(cards, func(a string) bool { return !slices.Contains(addresses, a) }), nil
}

// usesKFD reports whether a process that has /dev/kfd open works on this card; what cannot be told counts as yes.
func (h *Host) usesKFD(pid int, address string) bool {
	id, err := h.KFDGPU(address)
	if err != nil || id == "" {
		return true
	}
	uses, known := h.KFDProcessUses(pid, id)
	return uses || !known
}

// sessionWith returns the session for which one of the nodes is kept open, nil if logind does not say.
func (h *Host) sessionWith(nodes []sysfs.DeviceNode) *sysfs.Session {
	sessions, err := h.Sessions()
	if err != nil {
		return nil
	}
	for _, s := range sessions {
		for _, n := range nodes {
			if slices.Contains(s.Devices, n.Rdev) {
				return &s
			}
		}
	}
	return nil
}

// DescribeUsers says who has what open: "Xorg (pid 812, display-manager.service) has /dev/nvidia0 open".
func DescribeUsers(fs sysfs.FS, users []User) string {
	var parts []string
	for _, u := range users {
		var nodes []string
		for _, n := range u.Nodes {
			nodes = append(nodes, n.Path)
		}
		parts = append(parts, fmt.Sprintf("%s has %s open", u.Describe(fs), strings.Join(nodes, ", ")))
	}
	return strings.Join(parts, ", ")
}

// Describe names the process for people: command, number, unit or session, user, container.
func (u User) Describe(fs sysfs.FS) string {
	if s := u.Session; s != nil {
		return fmt.Sprintf("session %s of %s on %s (leader %d, by %s)", s.ID, s.User, s.Seat, s.Leader, u.Comm)
	}
	about := []string{fmt.Sprintf("pid %d", u.PID)}
	if unit := u.Unit(); unit != "" {
		about = append(about, unit)
	}
	if u.UID != 0 {
		about = append(about, "user "+fs.UserName(u.UID))
	}
	if c := u.Container(); c != "" {
		about = append(about, "container "+c)
	}
	return u.Comm + " (" + strings.Join(about, ", ") + ")"
}
