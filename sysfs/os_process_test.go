package sysfs_test

import (
	"context"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"qemu-hook/sysfs"
)

// The running host's programs: what they print, less what is beyond all reason, and no longer than anybody waits.
func TestOutput(t *testing.T) {
	host, err := sysfs.New("/")
	if err != nil {
		t.Fatal(err)
	}
	t.Run("printed", func(t *testing.T) {
		out, err := host.Output(context.Background(), "/bin/sh", "-c", "echo Enabled")
		if err != nil || string(out) != "Enabled\n" {
			t.Errorf("it printed %q, %v", out, err)
		}
	})
	t.Run("failed", func(t *testing.T) {
		out, err := host.Output(context.Background(), "/bin/sh", "-c", "echo no; exit 6")
		if err == nil || !strings.Contains(err.Error(), "exit status 6") || string(out) != "no\n" {
			t.Errorf("it printed %q, %v", out, err)
		}
	})
	t.Run("more than is kept", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		out, err := host.Output(ctx, "/bin/sh", "-c", "yes | head -c 300000")
		if err != nil || len(out) == 0 || len(out) >= 300000 {
			t.Errorf("it printed %d bytes, %v", len(out), err)
		}
	})
	for what, ctx := range map[string]func() (context.Context, context.CancelFunc){
		"deadline": func() (context.Context, context.CancelFunc) {
			return context.WithTimeout(context.Background(), 50*time.Millisecond)
		},
		"interrupted": func() (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(context.Background())
			time.AfterFunc(50*time.Millisecond, cancel)
			return ctx, cancel
		},
	} {
		t.Run(what, func(t *testing.T) {
			ctx, cancel := ctx()
			defer cancel()
			ended := make(chan error, 1)
			go func() {
				_, err := host.Output(ctx, "/bin/sleep", "60")
				ended <- err
			}()
			select {
			case err := <-ended:
				if err == nil || !strings.Contains(err.Error(), "/bin/sleep does not end") {
					t.Errorf("it ended with %v", err)
				}
			case <-time.After(30 * time.Second):
				t.Error("it waits for the program")
			}
		})
	}
}

// What a program leaves running, with its output open, is not waited for; and a program that has to be killed takes its children
// with it.
func TestExecuteWithChildren(t *testing.T) {
	host, err := sysfs.New("/")
	if err != nil {
		t.Fatal(err)
	}
	file := t.TempDir() + "/child"
	child := func(script string) sysfs.Program {
		return sysfs.Program{Path: "/bin/sh", Args: []string{"-c", script}, Env: []string{"PATH=/usr/bin:/bin", "FILE=" + file}, Stderr: true}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 40*time.Second)
	defer cancel()
	out, err := host.Execute(ctx, child(`sleep 300 & echo $! >"$FILE"; echo done >&2`))
	if err != nil || string(out) != "done\n" {
		t.Errorf("it printed %q, %v", out, err)
	}
	pid := func() int {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		n, err := strconv.Atoi(strings.TrimSpace(string(b)))
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	left := pid()
	if err := syscall.Kill(left, syscall.SIGKILL); err != nil {
		t.Errorf("what it left running was killed: %v", err)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	ctx, cancel = context.WithCancel(context.Background())
	go func() {
		for {
			if b, err := os.ReadFile(file); err == nil && len(b) > 1 {
				cancel()
				return
			}
			time.Sleep(time.Millisecond)
		}
	}()
	if _, err := host.Execute(ctx, child(`sleep 300 & echo $! >"$FILE"; wait`)); err == nil {
		t.Error("it ended well")
	}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		if b, err := os.ReadFile("/proc/" + strconv.Itoa(pid()) + "/status"); err != nil || strings.Contains(string(b), "Z (zombie)") {
			break
		}
		if time.Now().After(end) {
			t.Fatal("its child runs still")
		}
	}
}
