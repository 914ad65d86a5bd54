package main

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	smallPage = 4 << 10
	hugePage  = 2 << 20
	mpolBind  = 2 // MPOL_BIND of <linux/mempolicy.h>
)

// bindTo has the kernel take this memory from one node only.
func bindTo(mem []byte, node int) error {
	mask := uint64(1) << node
	_, _, errno := unix.Syscall6(unix.SYS_MBIND, uintptr(unsafe.Pointer(&mem[0])), uintptr(len(mem)), mpolBind,
		uintptr(unsafe.Pointer(&mask)), 64, 0)
	if errno != 0 {
		return fmt.Errorf("mbind to node %d: %w", node, errno)
	}
	return nil
}

// usePages maps n[0] huge pages, of node n[1] if there is one, writes to each and, when told to end, reads what was
// written: memory that was taken away would end this process by SIGBUS.
func usePages(n []int) error {
	mem, err := unix.Mmap(-1, 0, n[0]*hugePage, unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_HUGETLB)
	if err != nil {
		return fmt.Errorf("map %d huge pages: %w", n[0], err)
	}
	if len(n) == 2 {
		if err := bindTo(mem, n[1]); err != nil {
			return err
		}
	}
	for i := range n[0] {
		mem[i*hugePage] = byte(i + 1)
	}
	stay()
	for i := range n[0] {
		if mem[i*hugePage] != byte(i+1) {
			return fmt.Errorf("page %d holds %d, want %d", i, mem[i*hugePage], byte(i+1))
		}
	}
	fmt.Println("intact")
	return nil
}

// fragment takes mib of a node's memory and gives every second small page of it back, so that what is free there is in
// no piece that is large enough for a huge page.
func fragment(mib, node int) error {
	mem, err := unix.Mmap(-1, 0, mib<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return err
	}
	if err := unix.Madvise(mem, unix.MADV_NOHUGEPAGE); err != nil {
		return err
	}
	if err := bindTo(mem, node); err != nil {
		return err
	}
	for i := 0; i < len(mem); i += smallPage {
		mem[i] = 1
	}
	for i := 0; i < len(mem); i += 2 * smallPage {
		if err := unix.Madvise(mem[i:i+smallPage], unix.MADV_DONTNEED); err != nil {
			return err
		}
	}
	stay()
	return nil
}
