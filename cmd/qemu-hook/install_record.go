package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"

	"qemu-hook/hook"
)

// An installation is what install has put on a host and moved aside, in the order in which that was done. It is written
// before anything of it is done, and kept where it outlives a reboot: uninstall goes by it, however far install came.
type installation struct {
	Version int     `json:"version"`
	Parts   []*part `json:"parts"`
	// Unaware is the libvirt daemon that has started without a hook for qemu, and calls none before it has looked again.
	Unaware *hook.Process `json:"unaware,omitempty"`

	root string
}

// A part is one reversible act of an installation. Both directions may be done again and again.
type part struct {
	Kind string `json:"kind"`
	Path string `json:"path"`
	// To is where the file lies that was moved aside, or what the link points to.
	To string `json:"to,omitempty"`
	// Sums are the hashes of what the file may hold that is ours: before an upgrade, and after it.
	Sums []string `json:"sums,omitempty"`

	content []byte
	mode    fs.FileMode
}

// The kinds of parts.
const (
	partDir   = "dir"
	partAside = "aside"
	partFile  = "file"
	partLink  = "link"
)

const (
	installDir     = "/var/lib/qemu-hook"
	installRecord  = installDir + "/installed.json"
	installVersion = 1
)

func (p *part) String() string {
	switch p.Kind {
	case partDir:
		return "make the folder " + p.Path
	case partAside:
		return "move " + p.Path + " to " + p.To
	case partLink:
		return "link " + p.Path + " to " + p.To
	}
	return "write " + p.Path
}

// back says what undoing the part does.
func (p *part) back() string {
	if p.Kind == partAside {
		return "move " + p.To + " back to " + p.Path
	}
	return "remove " + p.Path
}

// holds reports whether the part is a folder that has something of another part in it.
func (p *part) holds(o *part) bool {
	return p.Kind == partDir && (strings.HasPrefix(o.Path, p.Path+"/") || strings.HasPrefix(o.To, p.Path+"/"))
}

// loadInstallation reads the record; without one nothing is installed.
func loadInstallation(root string) (*installation, error) {
	in := &installation{Version: installVersion, root: root}
	b, err := os.ReadFile(in.path(installRecord))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return in, nil
	case err != nil:
		return nil, fmt.Errorf("cannot read what is installed: %w", err)
	}
	if err := json.Unmarshal(b, in); err != nil {
		return nil, fmt.Errorf("cannot read what is installed: %s is garbled: %w", installRecord, err)
	}
	if in.Version != installVersion {
		return nil, fmt.Errorf("cannot read what is installed: %s is of a newer qemu-hook; use that", installRecord)
	}
	return in, nil
}

// path is where a file of the host lies.
func (in *installation) path(name string) string { return filepath.Join(in.root, name) }

// save writes the record, or removes it with its folder when it says nothing.
func (in *installation) save() error {
	dir := in.path(installDir)
	if len(in.Parts) == 0 {
		if err := os.Remove(in.path(installRecord)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("cannot remove the record of what is installed: %w", err)
		}
		sweep(in.path(installRecord))
		_ = os.Remove(dir) // unless somebody else has something there
		return nil
	}
	b, err := json.MarshalIndent(in, "", "  ")
	if err == nil {
		err = os.MkdirAll(dir, 0o755)
	}
	if err == nil {
		err = writeWhole(in.path(installRecord), append(b, '\n'), 0o644)
	}
	if err != nil {
		return fmt.Errorf("cannot write down what is installed: %w", err)
	}
	return nil
}

// writeWhole replaces a file by a rename, so that it is never seen in part and a program that runs keeps its own.
func writeWhole(file string, content []byte, mode fs.FileMode) error {
	sweep(file)
	return renameio.WriteFile(file, content, mode, renameio.WithTempDir(filepath.Dir(file)), renameio.WithStaticPermissions(mode))
}

// sweep removes what a killed [writeWhole] has left. renameio's names are a dot, the file's name and digits.
func sweep(file string) {
	left, _ := filepath.Glob(filepath.Join(filepath.Dir(file), "."+filepath.Base(file)+"[0-9]*"))
	for _, name := range left {
		if strings.Trim(strings.TrimPrefix(filepath.Base(name), "."+filepath.Base(file)), "0123456789") == "" {
			_ = os.Remove(name)
		}
	}
}

// find returns the recorded part of that kind for a path, nil if there is none.
func (in *installation) find(kind, path string) *part {
	i := slices.IndexFunc(in.Parts, func(p *part) bool { return p.Kind == kind && p.Path == path })
	if i < 0 {
		return nil
	}
	return in.Parts[i]
}

// add takes a part into the record, with what is known of it there.
func (in *installation) add(p *part) {
	old := in.find(p.Kind, p.Path)
	if old == nil {
		in.Parts = append(in.Parts, p)
		return
	}
	for _, s := range old.Sums {
		if !slices.Contains(p.Sums, s) {
			p.Sums = append(p.Sums, s)
		}
	}
	in.Parts[slices.Index(in.Parts, old)] = p
}

// do does the part, or completes it.
func (in *installation) do(p *part) error {
	path := in.path(p.Path)
	switch p.Kind {
	case partDir:
		err := os.Mkdir(path, 0o755)
		if errors.Is(err, fs.ErrExist) {
			return nil
		}
		return err
	case partAside:
		return rename(path, in.path(p.To))
	case partLink:
		err := os.Symlink(p.To, path)
		if to, rerr := os.Readlink(path); rerr == nil && to == p.To {
			return nil
		}
		return err
	default:
		return writeWhole(path, p.content, p.mode)
	}
}

// undo takes the part back. What is no longer ours is left, and said.
func (in *installation) undo(p *part) (left string, err error) {
	path := in.path(p.Path)
	switch p.Kind {
	case partDir:
		err = os.Remove(path)
		if errors.Is(err, unix.ENOTEMPTY) {
			return p.Path + " is left: somebody else has something in it", nil
		}
	case partAside:
		if !exists(in.path(p.To)) {
			return "", nil // never moved, or moved back
		}
		err = rename(in.path(p.To), path)
		if errors.Is(err, fs.ErrExist) {
			return "", fmt.Errorf("cannot move %s back to %s: there is another file by now; move one of them away", p.To, p.Path)
		}
		return "", err
	case partLink:
		to, rerr := os.Readlink(path)
		if rerr == nil && to == p.To {
			err = os.Remove(path)
		} else if !errors.Is(rerr, fs.ErrNotExist) {
			return p.Path + " is left: somebody else has put it there", nil
		}
	default:
		sweep(path)
		ours, ferr := in.holdsOurs(p)
		if ours {
			err = os.Remove(path)
		} else if !errors.Is(ferr, fs.ErrNotExist) {
			return p.Path + " is left: it is not what was installed", nil
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return "", err
}

// holdsOurs reports whether the part's file holds what install has put there.
func (in *installation) holdsOurs(p *part) (bool, error) {
	path := in.path(p.Path)
	st, err := os.Lstat(path)
	if err != nil || !st.Mode().IsRegular() {
		return false, err
	}
	b, err := os.ReadFile(path)
	return err == nil && slices.Contains(p.Sums, sum(b)), err
}

func sum(b []byte) string {
	s := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(s[:])
}

// sameContent reports whether a file can be read and holds just that.
func sameContent(file string, content []byte) bool {
	b, err := os.ReadFile(file)
	return err == nil && bytes.Equal(b, content)
}

// exists reports whether there is anything under a name, be it a link to nowhere.
func exists(file string) bool {
	_, err := os.Lstat(file)
	return err == nil
}

// rename never replaces anything.
func rename(from, to string) error {
	for {
		switch err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE); err {
		case nil:
			return nil
		case unix.EINTR:
		default:
			return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
		}
	}
}
