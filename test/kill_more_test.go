package test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"qemu-hook/sysfs/sysfstest"
	"qemu-hook/systemd/systemdtest"
	"qemu-hook/test/mode"
)

// The program is killed at every piece that it sends to D-Bus, those that only ask included: the piece is lost, or it arrives and
// nobody waits for the answer any more.
func TestKilledAtSend(t *testing.T) {
	t.Parallel()
	b := newBus(t)
	p := pair{host: "fern", domain: "win11"}
	total := map[string]int{}
	for _, s := range scenes() {
		proxy := systemdtest.NewProxy(t, b.address)
		through := func(l *life) *life {
			l.bus = proxy.Address
			return l
		}
		a := reach(t, p, b, s)
		l := through(a.again(t, b))
		var sends atomic.Int32
		proxy.OnSend(func(n int, pass func()) {
			sends.Store(int32(n))
			pass()
		})
		l.do(s.op)
		if sends.Load() == 0 {
			t.Fatalf("%s sends nothing through the proxy", s.op)
		}
		points, late := int(sends.Load())*2, 0
		for i := range points {
			if !mode.Long() && i > 12 && i%5 != 0 {
				continue // most are questions about unit after unit
			}
			n, arrives := i/2+1, i%2 == 1
			home := s.home[i%len(s.home)]
			t.Run(fmt.Sprintf("%s/%03d-%v", s.op, n, arrives), func(t *testing.T) {
				l := through(a.again(t, b))
				proxy.OnSend(func(at int, pass func()) {
					if at == n && arrives || at != n {
						pass()
					}
					if at == n {
						l.box.running().kill(t)
					}
				})
				status, stderr := l.call(s.op)
				proxy.OnSend(nil)
				switch status {
				case -1:
					total[s.op]++
				case 0:
					late++ // with its last words it waits for no answer
				default:
					t.Fatalf("the program was not killed at its piece %d: it ended with %d: %s", n, status, stderr)
				}
				l.home(home, fmt.Sprintf("%s killed at piece %d to the bus", s.op, n))
			})
		}
		if late > 6 {
			t.Errorf("%s ended by itself %d times", s.op, late)
		}
	}
	t.Logf("kill points: %v", total)
}

// A prepare is killed, and what comes next is killed too.
func TestKilledTwice(t *testing.T) {
	var mu sync.Mutex
	points := 0
	t.Run("pairs", func(t *testing.T) {
		for _, p := range killPairs() {
			if !p.whole {
				continue
			}
			t.Run(p.String(), func(t *testing.T) {
				t.Parallel()
				b := newBus(t)
				for _, next := range []string{"release", "prepare", "recover"} {
					n := killTwice(t, p, b, next)
					mu.Lock()
					points += n
					mu.Unlock()
				}
			})
		}
	})
	t.Logf("%d pairs of kill points", points)
}

// killTwice kills prepare at some of its points, and then the next call at some of its own.
func killTwice(t *testing.T, p pair, b *bus, next string) (n int) {
	first, second := 4, 3 // points of either
	if mode.Long() {
		first, second = 25, 12
	}
	prepare := scenes()[0]
	a := reach(t, p, b, prepare)
	for _, k := range some(a.points, first) {
		dead := a.again(t, b)
		dead.killAt("prepare", k)
		if next == "recover" {
			dead.do("orphaned")
		}
		// What the next call changes is counted on a copy.
		a := act{life: *dead, model: dead.model.Clone()}
		l := a.again(t, b)
		var mu sync.Mutex
		var changes []killPoint
		l.model.OnChange(func(c sysfstest.Change) error {
			mu.Lock()
			defer mu.Unlock()
			changes = append(changes, killPoint{change: c})
			return nil
		})
		l.do(next)
		for _, k2 := range some(changes, second) {
			n++
			t.Run(fmt.Sprintf("prepare-%s-%s-%s", k, next, k2), func(t *testing.T) {
				l := a.again(t, b)
				l.killAt(next, k2)
				l.home(prepare.home[n%len(prepare.home)], fmt.Sprintf("prepare killed at %s %s, %s killed at %s %s",
					k.change.Op, k.change.Path, next, k2.change.Op, k2.change.Path))
			})
		}
	}
	return n
}

// some picks n of the points at most, evenly, the last among them.
func some(points []killPoint, n int) []killPoint {
	if len(points) <= n {
		return points
	}
	var picked []killPoint
	for i := range n {
		picked = append(picked, points[(i+1)*len(points)/n-1])
	}
	return picked
}
