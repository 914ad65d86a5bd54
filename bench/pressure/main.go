// Command pressure brings a host's memory into the state that bench/hugepages measures in.
//
//	pressure fill FILE BYTES   make a sparse file and read it, so that the page cache holds it
//	pressure resident FILE     print how many bytes of a file the page cache holds
//	pressure hold BYTES        touch memory page by page, give every other page back, keep the rest until stdin ends
package main

import (
	"fmt"
	"io"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "pressure:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 3 && args[0] == "fill":
		size, err := strconv.ParseInt(args[2], 10, 64)
		if err != nil {
			return err
		}
		return fill(args[1], size)
	case len(args) == 2 && args[0] == "resident":
		n, err := resident(args[1])
		if err == nil {
			fmt.Println(n)
		}
		return err
	case len(args) == 2 && args[0] == "hold":
		size, err := strconv.Atoi(args[1])
		if err != nil {
			return err
		}
		return hold(size)
	}
	return fmt.Errorf("want fill FILE BYTES, resident FILE or or hold BYTES")
}

// fill reads a file with nothing in it: its pages cost memory and no disk.
func fill(name string, size int64) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		return err
	}
	buf := make([]byte, 1<<20)
	for {
		if _, err := f.Read(buf); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
	}
}

func resident(name string) (int64, error) {
	f, err := os.Open(name)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return 0, err
	}
	const window = 1 << 30 // bytes looked at in one go
	page := int64(os.Getpagesize())
	var n int64
	for at := int64(0); at < st.Size(); at += window {
		length := min(window, st.Size()-at)
		m, err := unix.Mmap(int(f.Fd()), at, int(length), unix.PROT_READ, unix.MAP_SHARED)
		if err != nil {
			return 0, fmt.Errorf("mmap %s: %w", name, err)
		}
		vec := make([]byte, (length+page-1)/page)
		if err := mincore(m, vec); err != nil {
			return 0, fmt.Errorf("mincore %s: %w", name, err)
		}
		for _, v := range vec {
			n += int64(v&1) * page
		}
		if err := unix.Munmap(m); err != nil {
			return 0, err
		}
	}
	return n, nil
}

// hold leaves free memory in single pages: whole blocks are to be had only by moving what is held.
func hold(size int) error {
	// Whoever needs memory meanwhile takes it from here.
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte("1000"), 0); err != nil {
		return err
	}
	m, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return fmt.Errorf("mmap of %d bytes: %w", size, err)
	}
	// Where the kernel has no transparent huge pages, there are none to switch off.
	_ = unix.Madvise(m, unix.MADV_NOHUGEPAGE)
	page := os.Getpagesize()
	for at := 0; at < size; at += page {
		m[at] = 1
	}
	for at := page; at+page <= size; at += 2 * page {
		if err := unix.Madvise(m[at:at+page], unix.MADV_DONTNEED); err != nil {
			return fmt.Errorf("madvise: %w", err)
		}
	}
	fmt.Println("held")
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}
