package systemdtest

import (
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"
)

// A Proxy stands between a client and a bus and can cut them off from each other.
type Proxy struct {
	Address string // of the proxy, as D-Bus has it

	target string
	mu     sync.Mutex
	conns  []net.Conn
	dialed int
	sends  int
	onSend func(n int, pass func())
}

// NewProxy returns a proxy before the bus at address, which is one that Serve or Bus returned. It ends with the test.
func NewProxy(t testing.TB, address string) *Proxy {
	t.Helper()
	target, _, _ := strings.Cut(strings.TrimPrefix(address, "unix:path="), ",")
	target, err := dbus.UnescapeBusAddressValue(target)
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(socketDir(t), "proxy")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{Address: "unix:path=" + dbus.EscapeBusAddressValue(socket), target: target}
	t.Cleanup(func() {
		l.Close()
		p.Cut()
	})
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			bus, err := net.Dial("unix", p.target)
			if err != nil {
				client.Close()
				continue
			}
			p.mu.Lock()
			p.conns = append(p.conns, client, bus)
			p.dialed++
			p.mu.Unlock()
			go forward(client, bus, func(pass func()) { pass() })
			go forward(bus, client, p.send)
		}
	}()
	return p
}

// OnSend sets a function that gets hold of each piece that a client sends, before it is passed on: with its running number on
// this proxy, from 1, and what passes it on. A message is a piece or two, a line of the authentication is one. nil removes it.
func (p *Proxy) OnSend(f func(n int, pass func())) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.onSend, p.sends = f, 0
}

func (p *Proxy) send(pass func()) {
	p.mu.Lock()
	p.sends++
	n, f := p.sends, p.onSend
	p.mu.Unlock()
	if f == nil {
		pass()
		return
	}
	f(n, pass)
}

// forward passes on what one side says, with the files that it hands over, by a function that gets hold of each piece.
func forward(to, from net.Conn, hold func(pass func())) {
	defer to.Close()
	defer from.Close()
	text, files := make([]byte, 1<<16), make([]byte, 1<<12)
	for {
		n, filesN, _, _, err := from.(*net.UnixConn).ReadMsgUnix(text, files)
		if err != nil || n == 0 {
			return
		}
		rights := rightsIn(files[:filesN])
		hold(func() {
			var sent int
			sent, _, err = to.(*net.UnixConn).WriteMsgUnix(text[:n], rightsOf(rights), nil)
			if err == nil {
				_, err = to.Write(text[sent:n])
			}
		})
		for _, fd := range rights {
			unix.Close(fd)
		}
		if err != nil {
			return
		}
	}
}

// rightsIn are the files of a message.
func rightsIn(control []byte) []int {
	messages, _ := unix.ParseSocketControlMessage(control)
	var fds []int
	for _, m := range messages {
		more, _ := unix.ParseUnixRights(&m) // what is no files is not passed on
		fds = append(fds, more...)
	}
	return fds
}

func rightsOf(fds []int) []byte {
	if len(fds) == 0 {
		return nil
	}
	return unix.UnixRights(fds...)
}

// Cut closes every connection there is; new ones are let through.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		c.Close()
	}
	p.conns = nil
}

// Dialed is the number of connections that were made so far.
func (p *Proxy) Dialed() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.dialed
}
