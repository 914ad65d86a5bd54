package sysfstest

import (
	"fmt"
	"strings"
	"syscall"
)

// addNodesOf makes what a function's driver makes beside the function's own files; it is shown when the driver comes.
func (p *parser) addNodesOf(d *pciDevice, v map[string][]string) error {
	h := p.h
	nodes := p.devNodes(v["nodes"])
	if d.minor >= 0 {
		nodes = append(nodes, devNode{
			kind: "nvidia", name: fmt.Sprint("nvidia", d.minor), major: nvidiaMajor, minor: uint32(d.minor), typ: syscall.S_IFCHR, mode: 0o666,
		})
	}
	var own, drm []devNode
	for _, n := range nodes {
		if n.kind == "drm" && d.home == "nvidia" && h.modules[nvidiaDRM] != nil {
			drm = append(drm, n)
		} else {
			own = append(own, n)
		}
	}
	var files []string
	if d.minor >= 0 {
		files = append(files, h.addNVIDIA(d))
	}
	if kfd := one(v, "kfd", ""); kfd != "" {
		files = append(files, p.addKFD(d, kfd))
	}
	ownLit, drmLit := commas(v["connectors"]), []string(nil)
	if drm != nil {
		ownLit, drmLit = nil, ownLit
	}
	var err error
	if d.own, err = h.makeNodes(d.path, own, files, ownLit); err != nil {
		return err
	}
	d.drm, err = h.makeNodes(d.path, drm, nil, drmLit)
	return err
}

// virtualFunctions ties functions and their virtual ones together, when all are there.
func (p *parser) virtualFunctions(lines []string) error {
	for _, l := range lines {
		words, v := pairs(strings.Fields(l))
		if len(v["virtfn"]) == 0 {
			continue
		}
		if err := p.h.addVFs(p.h.pci[words[0]], int(p.number(one(v, "vfs", "0"), 10))); err != nil {
			return err
		}
	}
	return p.err
}
