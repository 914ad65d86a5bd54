package systemdtest

import (
	"bytes"
	"encoding/binary"
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

	messages int     // passed on or not, since the last call of At
	at       int     // at which something befalls them, 0 for none
	trouble  Trouble // what
	silent   bool
	gone     bool

	sends  int
	onSend func(n int, pass func())
}

// Trouble is what befalls a message and those after it.
type Trouble int

const (
	// Cut closes every connection; new ones are let through.
	Cut Trouble = iota
	// Gone closes every connection, and all that are made later at once.
	Gone
	// Silence passes nothing on any more, and closes nothing.
	Silence
)

// At has a trouble befall the n-th message from now, counted from 1, of either side and on whichever connection. The lines
// by which connections begin are no messages; 0 is the first of them.
func (p *Proxy) At(n int, trouble Trouble) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.messages, p.at, p.trouble = 0, n, trouble
	p.silent, p.gone = n == 0 && trouble == Silence, n == 0 && trouble == Gone
}

// Heal ends all trouble.
func (p *Proxy) Heal() { p.At(-1, Cut) }

// Messages is how many there were since the last call of At or Heal.
func (p *Proxy) Messages() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.messages
}

// pass counts what is to be passed on and says whether it is.
func (p *Proxy) pass(message bool) bool {
	p.mu.Lock()
	if message {
		if p.messages++; p.messages == p.at {
			p.silent, p.gone = p.trouble == Silence, p.trouble == Gone
			if p.trouble != Silence {
				p.cut()
				p.mu.Unlock()
				return false
			}
		}
	}
	defer p.mu.Unlock()
	return !p.silent
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
			p.dialed++
			if p.gone {
				client.Close()
				bus.Close()
			} else {
				p.conns = append(p.conns, client, bus)
			}
			p.mu.Unlock()
			go p.forward(client, bus, func(pass func()) { pass() })
			go p.forward(bus, client, p.send)
		}
	}()
	return p
}

// OnSend sets a function that gets hold of each message that a client sends, and each line by which its connection begins, before it is
// passed on: with its running number on this proxy, from 1, and what passes it on. nil removes it.
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

// forward passes on what one side says, line by line and message by message, with the files that it hands over, by a function that
// gets hold of each.
func (p *Proxy) forward(to, from net.Conn, hold func(pass func())) {
	defer to.Close()
	defer from.Close()
	text, files := make([]byte, 1<<16), make([]byte, 1<<12)
	var said []byte
	var rights []int
	begun := false
	for {
		n, filesN, _, _, err := from.(*net.UnixConn).ReadMsgUnix(text, files)
		if err != nil || n == 0 {
			return
		}
		said, rights = append(said, text[:n]...), append(rights, rightsIn(files[:filesN])...)
		for {
			size, message := unit(said, begun)
			if size == 0 {
				break
			}
			begun = begun || message || string(said[:size]) == "BEGIN\r\n"
			if p.pass(message) {
				var err error
				hold(func() {
					var sent int
					sent, _, err = to.(*net.UnixConn).WriteMsgUnix(said[:size], rightsOf(rights), nil)
					if err == nil {
						_, err = to.Write(said[sent:size])
					}
				})
				if err != nil {
					return
				}
			}
			for _, fd := range rights {
				unix.Close(fd)
			}
			said, rights = said[size:], nil
		}
	}
}

// unit returns the size of the first line or message of what a side says, 0 if it is not whole yet (D-Bus Specification,
// Authentication Protocol and Message Format).
func unit(said []byte, begun bool) (size int, message bool) {
	const head = 16
	if len(said) == 0 {
		return 0, false
	}
	if !begun && said[0] != 'l' && said[0] != 'B' || bytes.HasPrefix(said, []byte("BEGIN")) {
		return bytes.IndexByte(said, '\n') + 1, false
	}
	if len(said) < head {
		return 0, true
	}
	var order binary.ByteOrder = binary.LittleEndian
	if said[0] == 'B' {
		order = binary.BigEndian
	}
	fields := (order.Uint32(said[12:]) + 7) &^ 7
	if size = head + int(fields) + int(order.Uint32(said[4:])); len(said) < size {
		return 0, true
	}
	return size, true
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
	p.cut()
}

func (p *Proxy) cut() {
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
