package scripts

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"syscall"

	"qemu-hook/sysfs"
)

// Bounds on what is read.
const (
	maxFiles   = 500
	maxSize    = 256 << 10 // of one file
	maxTotal   = 4 << 20
	maxFolders = 12 // inside one another
)

// HooksDir is where libvirt runs hooks from, and where scripts take them to be.
const HooksDir = "/etc/libvirt/hooks"

// A Tree is a folder with hooks of a host.
type Tree struct {
	sysfs.FS
	Dir  string
	Name string // as a person named it, if not as Dir
}

// A file is one of a tree's, or one that is called from there.
type file struct {
	name string
	data string
	exec bool   // for anybody
	why  string // it is not read

	lines []string // once they are asked for
}

// line returns a line, without what it is set in by.
func (f *file) line(n int) string {
	if f.lines == nil {
		f.lines = strings.Split(f.data, "\n")
	}
	if n < 1 || n > len(f.lines) {
		return ""
	}
	return strings.TrimSpace(f.lines[n-1])
}

// interpreter returns what runs the file by its first line, "" if it has none.
func (f *file) interpreter() string {
	line, _, _ := strings.Cut(f.data, "\n")
	rest, ok := strings.CutPrefix(line, "#!")
	words := strings.Fields(rest)
	if !ok || len(words) == 0 {
		return ""
	}
	if path.Base(words[0]) == "env" && len(words) > 1 {
		words = slices.DeleteFunc(words[1:], func(w string) bool { return strings.HasPrefix(w, "-") })
	}
	if len(words) == 0 {
		return ""
	}
	return path.Base(words[0])
}

// isShell reports whether a shell runs the file.
func (f *file) isShell() bool {
	return slices.Contains([]string{"sh", "bash", "dash", "ash", "ksh", "zsh"}, f.interpreter())
}

// inside reports whether a path lies in the tree.
func (t Tree) inside(name string) bool {
	return strings.HasPrefix(name, strings.TrimSuffix(t.Dir, "/")+"/")
}

// isOurs reports whether a hook is this program: it leads to a file of its name, be that there or not, or is a copy of it
// under the name of the link. What else has the name in its own is somebody else's.
func (t Tree) isOurs(name string) bool {
	at, err := t.ResolveLinks(name)
	if err != nil || !slices.Contains([]string{"qemu-hook", "50-qemu-hook"}, path.Base(at)) {
		return false
	}
	f := t.read(at)
	return !strings.HasPrefix(f.data, "#!")
}

// read reads a file, in the tree or outside of it. A link is followed to a regular file; what lies outside has to be a
// script, so that no file of another kind is ever shown.
func (t Tree) read(name string) *file {
	f := &file{name: name}
	at, err := t.ResolveLinks(name)
	if err != nil {
		f.why = err.Error()
		return f
	}
	st, err := t.Lstat(at)
	where := ""
	if at != name {
		where = "a link to " + at + ", "
	}
	kind := map[uint32]string{
		syscall.S_IFDIR: "a folder; have that imported by itself", syscall.S_IFIFO: "a FIFO", syscall.S_IFSOCK: "a socket",
		syscall.S_IFCHR: "a device", syscall.S_IFBLK: "a device",
	}[st.Type()]
	system := slices.ContainsFunc([]string{"/proc/", "/sys/"}, func(p string) bool { return strings.HasPrefix(at, p) })
	switch {
	case err != nil:
		f.why = where + "which cannot be looked at: " + cause(err)
	case kind != "":
		f.why = where + kind
	case system:
		f.why = where + "no file that a script could be"
	case st.Size > maxSize:
		f.why = fmt.Sprintf("%swith %d bytes it is too large for a script", where, st.Size)
	case st.Size > 0:
		data, err := t.ReadFile(at)
		switch {
		case err != nil:
			f.why = where + "which cannot be read: " + cause(err)
		case bytes.IndexByte(data, 0) >= 0 || len(data) > maxSize:
			f.why = where + "a program or other data, no script"
		case !t.inside(at) && !bytes.HasPrefix(data, []byte("#!")):
			f.why = where + "outside of the folder, and no script"
		default:
			f.data = string(data)
		}
	}
	f.why = strings.TrimPrefix(f.why, "which ")
	f.exec = st.Mode&0o111 != 0
	return f
}

func cause(err error) string {
	var p *fs.PathError
	if errors.As(err, &p) {
		err = p.Err
	}
	return err.Error()
}

// names returns the paths of everything in the tree that is no folder, those that libvirt runs first before the others.
func (t Tree) names() (names []string, notes []Note, err error) {
	if _, err := t.List(t.Dir); err != nil {
		return nil, nil, err
	}
	var walk func(dir string, depth int)
	walk = func(dir string, depth int) {
		all, err := t.List(dir)
		if err != nil {
			notes = append(notes, Note{dir, 0, cause(errors.Unwrap(err))})
			return
		}
		folders, err := t.SubDirs(dir)
		if err != nil {
			notes = append(notes, Note{dir, 0, cause(err)})
			return
		}
		for _, name := range all {
			full := path.Join(dir, name)
			switch {
			case len(names) >= maxFiles:
				notes = append(notes, Note{full, 0, fmt.Sprintf("not read: more than %d files", maxFiles)})
				return
			case !slices.Contains(folders, name):
				names = append(names, full)
			case name == ".git":
			case depth == maxFolders:
				notes = append(notes, Note{full, 0, fmt.Sprintf("not read: more than %d folders inside one another", maxFolders)})
			default:
				walk(full, depth+1)
			}
		}
	}
	walk(t.Dir, 1)
	main := path.Join(t.Dir, "qemu")
	slices.SortStableFunc(names, func(a, b string) int {
		switch {
		case a == main && b != main:
			return -1
		case b == main && a != main:
			return 1
		}
		return 0
	})
	return names, notes, nil
}
