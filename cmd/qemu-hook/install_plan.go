package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"qemu-hook/dist"
	"qemu-hook/hook/scripts"
	"qemu-hook/sysfs"
)

// Where things lie. AppArmor lets libvirtd execute what is in /usr/bin, and nothing in /usr/local.
const (
	programFile = "/usr/bin/qemu-hook"
	hooksDir    = "/etc/libvirt/hooks"
	hookLink    = hooksDir + "/qemu.d/50-qemu-hook"
	replacedDir = hooksDir + "/qemu-hook-replaced" // where libvirt looks for no hooks
	unitDir     = "/etc/systemd/system"
)

// packagedUnits are the folders in which a package of a distribution has its units.
func packagedUnits() []string { return []string{"/usr/lib/systemd/system", "/lib/systemd/system"} }

// An installPlan is what install would do.
type installPlan struct {
	parts []*part
	// inTheWay are files that are moved aside only when that was asked for.
	inTheWay []obstacle
	// there says what is installed already, by whomever.
	there []string
}

// An obstacle is a file that is in the way, and why.
type obstacle struct{ path, why string }

const (
	notOurs  = "it was not put there by qemu-hook install"
	sameWork = "it does the same work, or cannot be read; see qemu-hook check"
)

// planInstall looks what is missing, and writes nothing.
func planInstall(in *installation, program []byte, replace bool) (*installPlan, error) {
	p := &installPlan{}
	p.file(in, programFile, program, 0o755, replace)

	unit := unitDir + "/" + dist.RecoverUnit
	packaged := slices.IndexFunc(packagedUnits(), func(dir string) bool {
		return exists(in.path(dir + "/" + dist.RecoverUnit))
	})
	if packaged >= 0 {
		unit = packagedUnits()[packaged] + "/" + dist.RecoverUnit
	} else {
		p.file(in, unit, dist.RecoverUnitFile(), 0o644, replace)
	}
	for _, wants := range wantedBy(dist.RecoverUnitFile()) {
		p.link(in, unitDir+"/"+wants+".wants/"+dist.RecoverUnit, unit, replace)
	}

	links, err := ourLinks(in.root)
	if err != nil {
		return nil, err
	}
	old, err := fights(in.root)
	if err != nil {
		return nil, err
	}
	for _, name := range old {
		p.aside(in, name, sameWork, replace)
	}
	if len(links) == 0 {
		p.link(in, hookLink, programFile, replace)
		return p, nil
	}
	p.there = append(p.there, links[0])
	for _, name := range links[1:] {
		p.aside(in, name, "it leads to this program as "+links[0]+" does, and libvirt would run both", replace)
	}
	return p, nil
}

func isHook(name string) bool { return strings.HasPrefix(name, hooksDir+"/") }

// dirs has the folders made that the file lies in.
func (p *installPlan) dirs(in *installation, file string) {
	var missing []*part
	for dir := filepath.Dir(file); dir != "/"; dir = filepath.Dir(dir) {
		if _, err := os.Stat(in.path(dir)); err == nil {
			break
		}
		if !slices.ContainsFunc(p.parts, func(o *part) bool { return o.Kind == partDir && o.Path == dir }) {
			missing = append(missing, &part{Kind: partDir, Path: dir})
		}
	}
	slices.Reverse(missing)
	p.parts = append(p.parts, missing...)
}

// file has a file hold the content. One that is there and is not ours is somebody else's, also if it holds the same.
func (p *installPlan) file(in *installation, path string, content []byte, mode fs.FileMode, replace bool) {
	st, err := os.Stat(in.path(path))
	if err == nil && sameContent(in.path(path), content) && st.Mode().Perm()&0o111 == mode&0o111 {
		p.there = append(p.there, path)
		return
	}
	if old := in.find(partFile, path); err == nil && old != nil {
		if ours, _ := in.holdsOurs(old); !ours {
			p.aside(in, path, notOurs, replace)
		}
	} else if err == nil {
		p.aside(in, path, notOurs, replace)
	}
	p.dirs(in, path)
	p.parts = append(p.parts, &part{Kind: partFile, Path: path, Sums: []string{sum(content)}, content: content, mode: mode})
}

func (p *installPlan) link(in *installation, path, to string, replace bool) {
	if leadsTo(in.root, path, to) {
		p.there = append(p.there, path)
		return
	}
	if exists(in.path(path)) {
		p.aside(in, path, notOurs, replace)
	}
	p.dirs(in, path)
	p.parts = append(p.parts, &part{Kind: partLink, Path: path, To: to})
}

// aside has a file moved out of the way, hooks to where libvirt looks for none.
func (p *installPlan) aside(in *installation, path, why string, replace bool) {
	if slices.ContainsFunc(p.inTheWay, func(o obstacle) bool { return o.path == path }) {
		return
	}
	p.inTheWay = append(p.inTheWay, obstacle{path, why})
	if replace {
		to := path + ".qemu-hook-replaced"
		if isHook(path) {
			to = replacedDir + strings.TrimPrefix(path, hooksDir)
		}
		p.dirs(in, to)
		p.parts = append(p.parts, &part{Kind: partAside, Path: path, To: to})
	}
}

// movesHooks reports whether hooks are moved aside, or were.
func movesHooks(parts []*part) bool {
	return slices.ContainsFunc(parts, func(p *part) bool { return p.Kind == partAside && isHook(p.Path) })
}

// wantedBy returns the units that a unit's file says it is started for.
func wantedBy(unit []byte) (units []string) {
	for line := range strings.Lines(string(unit)) {
		if names, ok := strings.CutPrefix(line, "WantedBy="); ok {
			units = append(units, strings.Fields(names)...)
		}
	}
	return units
}

// hooks returns the hooks for qemu that libvirt calls, in its order: hooks/qemu, then qemu.d. It goes by whether there is an
// execute bit, and follows links.
func hooks(root string) ([]string, error) {
	host, err := sysfs.New(filepath.Join("/", root))
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(root, hooksDir)
	entries, err := os.ReadDir(dir + "/qemu.d")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cannot look for hooks: %w", err)
	}
	names := []string{hooksDir + "/qemu"}
	for _, e := range entries {
		names = append(names, hooksDir+"/qemu.d/"+e.Name())
	}
	return slices.DeleteFunc(names, func(name string) bool {
		if isOurs(root, name) {
			return false // also while the program is not there yet
		}
		at, err := host.ResolveLinks(name)
		if err != nil {
			return true
		}
		st, err := os.Stat(filepath.Join(root, at))
		return err != nil || !st.Mode().IsRegular() || st.Mode().Perm()&0o111 == 0
	}), nil
}

// isOurs reports whether a hook is a link to the program.
func isOurs(root, name string) bool { return leadsTo(root, name, programFile) }

// leadsTo reports whether a path is a link that leads to where the other does, in whatever way it is written.
func leadsTo(root, path, to string) bool {
	host, err := sysfs.New(filepath.Join("/", root))
	if err != nil {
		return false
	}
	_, err = host.Readlink(path)
	return err == nil && scripts.LeadsTo(host, path, to)
}

// fights returns those of a host's hooks for qemu that would do the same work as ours at the same events.
func fights(root string) ([]string, error) {
	host, err := sysfs.New(filepath.Join("/", root))
	if err != nil {
		return nil, err
	}
	return scripts.Fights(scripts.Tree{FS: host, Dir: hooksDir}, programFile)
}

// ourLinks returns the links to the program, whoever has made them: with two, each event would be handled twice. The first is the
// one to stay.
func ourLinks(root string) ([]string, error) {
	all, err := hooks(root)
	all = slices.DeleteFunc(all, func(name string) bool { return !isOurs(root, name) })
	if i := slices.Index(all, hookLink); i > 0 {
		all = slices.Insert(slices.Delete(all, i, i+1), 0, hookLink)
	}
	return all, err
}
