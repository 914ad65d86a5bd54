package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"qemu-hook/domain"
	"qemu-hook/hook/scripts"
	"qemu-hook/sysfs"
)

// runImport says what of people's own hooks is needless, and what the configuration says instead. It changes nothing.
func runImport(o options, args []string) error {
	if len(args) > 1 {
		return usageError("import takes one folder at most")
	}
	host, err := sysfs.New(o.rootDir())
	if err != nil {
		return err
	}
	tree, err := hooksTree(host, o.rootDir(), args)
	if err != nil {
		return err
	}
	report, err := scripts.Read(tree)
	if err != nil {
		return err
	}
	copyOut(report.Import(func(guest string) (*domain.Needs, error) { return storedNeeds(host, guest) }))
	return nil
}

// hooksTree finds the folder: the one that is named, as it is named, else libvirt's.
func hooksTree(host sysfs.FS, root string, args []string) (scripts.Tree, error) {
	if len(args) == 1 {
		dir, err := filepath.Abs(args[0])
		if err != nil {
			return scripts.Tree{}, err
		}
		if below, err := filepath.Rel(root, dir); err == nil && below != ".." && !strings.HasPrefix(below, "../") {
			return scripts.Tree{FS: host, Dir: filepath.Join("/", below), Name: args[0]}, nil
		}
		here, err := sysfs.New("/")
		return scripts.Tree{FS: here, Dir: dir, Name: args[0]}, err
	}
	i := slices.IndexFunc(scripts.HookDirs(), host.Exists)
	if i < 0 {
		return scripts.Tree{}, fmt.Errorf("there are no hooks: neither %s exists; name the folder: qemu-hook import DIR",
			strings.Join(scripts.HookDirs(), " nor "))
	}
	return scripts.Tree{FS: host, Dir: scripts.HookDirs()[i]}, nil
}

// storedNeeds reads the definition that libvirt stores of a guest.
func storedNeeds(host sysfs.FS, guest string) (*domain.Needs, error) {
	if guest == "" || strings.Contains(guest, "/") {
		return nil, os.ErrNotExist
	}
	var errs error
	for _, dir := range storedDefinitions {
		b, err := host.ReadFile(dir + guest + ".xml")
		if err == nil {
			return domain.Parse(strings.NewReader(string(b)))
		}
		errs = errors.Join(errs, err)
	}
	return nil, errs
}
