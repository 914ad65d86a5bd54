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
			go forward(client, bus)
			go forward(bus, client)
		}
	}()
	return p
}

// forward passes on what one side says, with the files that it hands over.
func forward(to, from net.Conn) {
	defer to.Close()
	defer from.Close()
	text, files := make([]byte, 1<<16), make([]byte, 1<<12)
	for {
		n, filesN, _, _, err := from.(*net.UnixConn).ReadMsgUnix(text, files)
		if err != nil || n == 0 {
			return
		}
		rights := rightsIn(files[:filesN])
		sent, _, err := to.(*net.UnixConn).WriteMsgUnix(text[:n], rightsOf(rights), nil)
		if err == nil {
			_, err = to.Write(text[sent:n])
		}
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
