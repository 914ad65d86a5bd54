package sysfs

import (
	"slices"
	"strings"
)

// LitConnectors returns the connectors of functions that show something (drm/cardN/cardN-NAME/status and enabled), and if
// there are some, those of all other functions.
func (h FS) LitConnectors(addresses []string) (own, elsewhere []string, err error) {
	for _, a := range addresses {
		lit, err := h.litConnectors(a)
		if err != nil {
			return nil, nil, err
		}
		own = append(own, lit...)
	}
	if len(own) == 0 {
		return nil, nil, nil
	}
	all, err := h.List(PCIBus + "/devices")
	if err != nil {
		return nil, nil, err
	}
	for _, a := range all {
		if slices.Contains(addresses, a) {
			continue
		}
		lit, err := h.litConnectors(a)
		if err != nil {
			return nil, nil, err
		}
		elsewhere = append(elsewhere, lit...)
	}
	return own, elsewhere, nil
}

func (h FS) litConnectors(address string) (lit []string, err error) {
	drm := PCIDevice(address) + "/drm"
	cards, err := h.ReadDir(drm)
	if err != nil {
		return nil, nil //nolint:nilerr // no display, or it goes at this moment
	}
	for _, card := range cards {
		if !strings.HasPrefix(card, "card") {
			continue
		}
		names, err := h.List(drm + "/" + card)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			if !strings.HasPrefix(name, card+"-") {
				continue
			}
			status, err1 := h.Read(drm + "/" + card + "/" + name + "/status")
			enabled, err2 := h.Read(drm + "/" + card + "/" + name + "/enabled")
			if err1 == nil && err2 == nil && status == "connected" && enabled == "enabled" {
				lit = append(lit, name)
			}
		}
	}
	return lit, nil
}
