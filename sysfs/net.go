package sysfs

import (
	"math"
	"path"
	"slices"
	"strconv"
	"strings"
)

const netClass = "/sys/class/net"

// NetUse says what the host needs an interface for: its default route, a bridge or bond of which it is a port.
func (h FS) NetUse(name string) []string {
	var uses []string
	for _, routes := range [][]defaultRoute{h.defaultRoutes4(), h.defaultRoutes6()} {
		if best := bestRoute(routes); best != "" && (best == name || h.liesOn(best, name)) {
			uses = append(uses, "has the host's default route")
			break
		}
	}
	if master, err := h.LinkBase(path.Join(netClass, name, "master")); err == nil && master != "" {
		uses = append(uses, "is a port of "+master)
	}
	return uses
}

type defaultRoute struct {
	dev    string
	metric uint64
}

// bestRoute returns the interface of the route with the lowest metric.
func bestRoute(routes []defaultRoute) string {
	best := defaultRoute{metric: math.MaxUint64}
	for _, r := range routes {
		if r.metric < best.metric {
			best = r
		}
	}
	return best.dev
}

// liesOn reports whether an interface is made of another: a VLAN, a macvlan.
func (h FS) liesOn(upper, name string) bool {
	links, _ := h.ReadDir(path.Join(netClass, name))
	return slices.Contains(links, "upper_"+upper)
}

const routeUp = 1 // RTF_UP

// defaultRoutes4 reads /proc/net/route: interface, destination, gateway, flags, …, metric, mask.
func (h FS) defaultRoutes4() []defaultRoute {
	v, err := h.Read("/proc/net/route")
	if err != nil {
		return nil
	}
	var routes []defaultRoute
	for line := range strings.Lines(v) {
		f := strings.Fields(line)
		if len(f) < 8 || f[1] != "00000000" || f[7] != "00000000" {
			continue
		}
		flags, _ := strconv.ParseUint(f[3], 16, 32)
		metric, err := strconv.ParseUint(f[6], 10, 32)
		if flags&routeUp != 0 && err == nil {
			routes = append(routes, defaultRoute{f[0], metric})
		}
	}
	return routes
}

// defaultRoutes6 reads /proc/net/ipv6_route: destination, its length, source, its length, next hop, metric, …, flags, interface.
func (h FS) defaultRoutes6() []defaultRoute {
	v, err := h.Read("/proc/net/ipv6_route")
	if err != nil {
		return nil
	}
	var routes []defaultRoute
	for line := range strings.Lines(v) {
		f := strings.Fields(line)
		if len(f) < 10 || f[1] != "00" || strings.Trim(f[0], "0") != "" || f[9] == "lo" {
			continue
		}
		flags, _ := strconv.ParseUint(f[8], 16, 32)
		metric, err := strconv.ParseUint(f[5], 16, 32)
		if flags&routeUp != 0 && err == nil {
			routes = append(routes, defaultRoute{f[9], metric})
		}
	}
	return routes
}

// VFs returns the virtual functions of a function, virtfnN (Documentation/ABI/testing/sysfs-bus-pci).
func (h FS) VFs(address string) ([]string, error) {
	names, err := h.List(PCIDevice(address))
	if err != nil {
		return nil, err
	}
	var vfs []string
	for _, n := range names {
		if !strings.HasPrefix(n, "virtfn") {
			continue
		}
		vf, err := h.LinkBase(PCIDevice(address) + "/" + n)
		if err != nil {
			return nil, err
		}
		vfs = append(vfs, vf)
	}
	return vfs, nil
}
