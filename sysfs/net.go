package sysfs

import (
	"math"
	"path"
	"slices"
	"strconv"
	"strings"
)

// netClass is the host's network interfaces (Documentation/ABI/testing/sysfs-class-net).
const netClass = "/sys/class/net"

// NetUse says what the host needs an interface for: its default route, a bridge or bond of which it is a port, be it through
// a VLAN or whatever else is made of it.
func (h FS) NetUse(name string) []string {
	stack := h.netStack(name)
	var uses []string
	for _, routes := range [][]defaultRoute{h.defaultRoutes4(), h.defaultRoutes6()} {
		if best := h.bestRoute(routes); best != "" && slices.Contains(stack, best) {
			uses = append(uses, "has the host's default route")
			break
		}
	}
	for _, n := range stack {
		master, err := h.LinkBase(path.Join(netClass, n, "master"))
		if err != nil || master == "" {
			continue
		}
		if n != name {
			return append(uses, "carries "+n+", a port of "+master)
		}
		return append(uses, "is a port of "+master)
	}
	return uses
}

// netStack returns an interface and those that are made of it, one above the other: upper_NAME.
func (h FS) netStack(name string) []string {
	stack := []string{name}
	for i := 0; i < len(stack); i++ {
		links, _ := h.ReadDir(path.Join(netClass, stack[i]))
		for _, l := range links {
			if upper, ok := strings.CutPrefix(l, "upper_"); ok && !slices.Contains(stack, upper) {
				stack = append(stack, upper)
			}
		}
	}
	return stack
}

type defaultRoute struct {
	dev    string
	metric uint64
}

// bestRoute returns the interface of the route with the lowest metric. A tunnel's traffic takes the next one.
func (h FS) bestRoute(routes []defaultRoute) string {
	best := defaultRoute{metric: math.MaxUint64}
	for _, r := range routes {
		if r.metric < best.metric && !h.tunnel(r.dev) {
			best = r
		}
	}
	return best.dev
}

// tunnel reports whether an interface is neither a device nor made of one.
func (h FS) tunnel(name string) bool {
	dir := path.Join(netClass, name)
	target, err := h.Readlink(dir)
	if err != nil || !strings.Contains(target, "/virtual/") {
		return false
	}
	links, _ := h.ReadDir(dir)
	return !slices.ContainsFunc(links, func(l string) bool { return strings.HasPrefix(l, "lower_") })
}

// What /proc/net says of routes: RTF_UP, RTF_REJECT.
const (
	routeUp     = 1
	routeReject = 0x200
)

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
		if flags&(routeUp|routeReject) == routeUp && err == nil {
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
		if len(f) < 10 || f[1] != "00" || strings.Trim(f[0], "0") != "" {
			continue
		}
		flags, _ := strconv.ParseUint(f[8], 16, 32)
		metric, err := strconv.ParseUint(f[5], 16, 32)
		if flags&(routeUp|routeReject) == routeUp && err == nil {
			routes = append(routes, defaultRoute{f[9], metric})
		}
	}
	return routes
}
