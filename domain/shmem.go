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
	p.shm = append(p.shm, file)
	return nil
}

// uniqueFiles keeps each file once, at its first place, with the largest size: QEMU accepts that for a smaller one.
func uniqueFiles(files []File) []File {
	var kept []File
	place := map[string]int{}
	for _, f := range files {
		if i, ok := place[f.Path]; ok {
			kept[i].Bytes = max(kept[i].Bytes, f.Bytes)
			continue
		}
		place[f.Path] = len(kept)
		kept = append(kept, f)
	}
	return kept
}
