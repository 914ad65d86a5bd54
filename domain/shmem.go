package domain

import (
	"encoding/xml"
	"fmt"
	"strings"

	"libvirt.org/go/libvirtxml"
)

const (
	shmDir = "/dev/shm/"
	// defaultShmem is what libvirt takes when <shmem> has no <size>.
	defaultShmem = 4 << 20
)

// shmem reads <shmem>. Only ivshmem-plain is a file in /dev/shm; ivshmem-doorbell is a socket, and libvirt refuses the
// old ivshmem, which is also what stands for no <model> at all.
func (p *parser) shmem(start xml.StartElement) error {
	var model libvirtxml.DomainShmemModel
	var size *libvirtxml.DomainShmemSize
	err := p.children(func(name string) handler {
		switch name {
		case "model":
			return func(start xml.StartElement) error { return p.decode(&model, start) }
		case "size":
			return func(start xml.StartElement) error {
				size = &libvirtxml.DomainShmemSize{}
				return p.decode(size, start)
			}
		}
		return nil
	})
	shm := attr(start, "name")
	if err != nil {
		return fmt.Errorf("<shmem name=%s>: %w", quote(shm), err)
	}
	if model.Type != "ivshmem-plain" {
		return nil
	}
	if shm == "" || shm == "." || shm == ".." || strings.ContainsAny(shm, "/\x00") {
		return fmt.Errorf("<shmem name=%s>: the name must be that of a file in %s, without a slash", quote(shm), shmDir)
	}
	file := File{Path: shmDir + shm, Bytes: defaultShmem}
	if size != nil && size.Value != 0 {
		if file.Bytes, err = scale(uint64(size.Value), size.Unit, 1); err != nil {
			return fmt.Errorf("<shmem name=%s>: <size>: %w", quote(shm), err)
		}
	}
	p.shm = addFile(p.shm, file)
	return nil
}

// addFile appends a file; one that is there already gets the larger size, which QEMU accepts for the smaller.
func addFile(files []File, f File) []File {
	for i := range files {
		if files[i].Path == f.Path {
			files[i].Bytes = max(files[i].Bytes, f.Bytes)
			return files
		}
	}
	return append(files, f)
}
