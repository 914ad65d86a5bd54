package systemdtest

import (
	"bufio"
	"context"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/godbus/dbus/v5"

	"qemu-hook/systemd"
)

// ServePrivate answers with what m says at a socket of its own, as systemd does at /run/systemd/private: there is no bus
// behind it, so nobody is greeted, no match rules are taken, every signal goes to every connection, and logind is not
// there. It returns the socket's address. All ends with the test; m is not closed.
func ServePrivate(t testing.TB, m systemd.Manager) (address string) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	socket := filepath.Join(socketDir(t), "private")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s := &service{ctx: ctx, m: m}
	var served sync.WaitGroup
	t.Cleanup(func() {
		cancel()
		l.Close()
		served.Wait()
	})
	served.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			context.AfterFunc(ctx, func() { client.Close() })
			served.Go(func() {
				if err := s.serve(client); err != nil {
					client.Close()
				}
			})
		}
	})
	return "unix:path=" + dbus.EscapeBusAddressValue(socket)
}

// serve lets a client in and answers its calls.
func (s *service) serve(client net.Conn) error {
	if err := welcome(client); err != nil {
		return err
	}
	conn, err := dbus.NewConn(&welcomed{Conn: client, said: "REJECTED ANONYMOUS\r\nOK 0\r\n"}, dbus.WithContext(s.ctx))
	if err != nil {
		return err
	}
	if err := s.export(conn); err != nil {
		return err
	}
	// A job that the client's first call begins is not to end unheard.
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns = append(s.conns, conn)
	return conn.Auth([]dbus.Auth{dbus.AuthAnonymous()})
}

// welcome is the server's side of a connection's beginning (D-Bus Specification, Authentication Protocol). Everybody is
// who they say they are.
func welcome(client net.Conn) error {
	lines := bufio.NewReader(single{client})
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			return err
		}
		answer := ""
		switch f := strings.Fields(strings.TrimLeft(line, "\x00")); {
		case len(f) == 0:
			answer = "ERROR"
		case f[0] == "BEGIN":
			return nil
		case f[0] == "AUTH" && len(f) == 1:
			answer = "REJECTED EXTERNAL"
		case f[0] == "AUTH" && len(f) == 2:
			answer = "DATA"
		case f[0] == "AUTH", f[0] == "DATA":
			answer = "OK 0123456789abcdef0123456789abcdef"
		default:
			answer = "ERROR" // no file descriptors are passed
		}
		if _, err := client.Write([]byte(answer + "\r\n")); err != nil {
			return err
		}
	}
}

// single reads a byte at a time, so that nothing is read that comes after the beginning.
type single struct{ net.Conn }

func (r single) Read(p []byte) (int, error) { return r.Conn.Read(p[:min(len(p), 1)]) }

// welcomed is the connection of a client that was let in. The library knows only the client's side of the beginning: it
// is told what it wants to hear, and what it says is kept from the client.
type welcomed struct {
	net.Conn

	said  string // not yet heard
	begun bool
}

func (c *welcomed) Read(p []byte) (int, error) {
	if c.said == "" {
		return c.Conn.Read(p)
	}
	n := copy(p, c.said)
	c.said = c.said[n:]
	return n, nil
}

func (c *welcomed) Write(p []byte) (int, error) {
	if c.begun {
		return c.Conn.Write(p)
	}
	c.begun = string(p) == "BEGIN\r\n"
	return len(p), nil
}
