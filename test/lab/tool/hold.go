package main

import (
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// stay says that all is in place and waits to be ended.
func stay() {
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGTERM, syscall.SIGINT)
	fmt.Println("ready")
	<-end
}

func hold(file string) error {
	fd, err := unix.Open(file, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", file, err)
	}
	stay()
	return unix.Close(fd)
}

// hide sends the open file into a socket that nobody reads: it stays open, but no process has it.
func hide(file string) error {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	fd, err := unix.Open(file, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", file, err)
	}
	if err := unix.Sendmsg(pair[0], []byte("x"), unix.UnixRights(fd), nil, 0); err != nil {
		return err
	}
	if err := unix.Close(fd); err != nil {
		return err
	}
	stay()
	return nil
}

// steal duplicates an open file of another process into this one.
func steal(pid int, text string) error {
	links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil {
		return err
	}
	for _, link := range links {
		target, err := os.Readlink(link)
		if err != nil || !strings.Contains(target, text) {
			continue
		}
		theirs, err := strconv.Atoi(filepath.Base(link))
		if err != nil {
			return err
		}
		process, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			return err
		}
		if _, err := unix.PidfdGetfd(process, theirs, 0); err != nil {
			return fmt.Errorf("take %s of process %d: %w", target, pid, err)
		}
		stay()
		return nil
	}
	return fmt.Errorf("process %d has nothing open that holds %q", pid, text)
}
