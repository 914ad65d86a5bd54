package systemdtest

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"

	"qemu-hook/systemd"
)

// A setting is a property that is set: (sv).
type setting struct {
	Name  string
	Value dbus.Variant
}

// startTransient is org.freedesktop.systemd1.Manager.StartTransientUnit for a service. Properties have the types that
// org.freedesktop.systemd1(5) gives them, or are refused.
func (s *service) startTransient(unit, mode string, properties []setting, aux []struct {
	Name       string
	Properties []setting
},
) (dbus.ObjectPath, *dbus.Error) {
	if len(aux) > 0 {
		return "", refusal("org.freedesktop.DBus.Error.NotSupported", "No auxiliary units are started here.")
	}
	if !strings.HasSuffix(unit, ".service") {
		return "", refusal("org.freedesktop.DBus.Error.InvalidArgs", "Unit name "+unit+" is no service's.")
	}
	t, err := transient(unit, properties)
	if err != nil {
		return "", err
	}
	if mode == "fail" {
		mode = "replace" // which is the same for a unit that is new
	}
	return s.job(unit, mode, func(ctx context.Context, _ string) error { return s.m.StartTransient(ctx, t) })
}

// fixed are the properties that have one value in every unit.
func fixed() map[string]string {
	return map[string]string{
		"CollectMode": "inactive-or-failed", "Slice": "system.slice",
		"StandardOutput": "journal", "StandardError": "journal",
	}
}

func transient(unit string, properties []setting) (systemd.Transient, *dbus.Error) {
	t := systemd.Transient{Name: unit}
	var after []string
	want, kind := fixed(), ""
	for _, p := range properties {
		var err error
		switch p.Name {
		case "Description":
			err = take(p.Value, "s", &t.Description)
		case "BindsTo":
			var units []string
			if err = take(p.Value, "as", &units); err == nil && len(units) == 1 {
				t.BindsTo = units[0]
			}
		case "After":
			err = take(p.Value, "as", &after)
		case "Environment":
			err = take(p.Value, "as", &t.Environment)
		case "RuntimeMaxUSec":
			err = takeTime(p.Value, &t.RuntimeMax)
		case "TimeoutStartUSec":
			err = takeTime(p.Value, &t.Within)
		case "TimeoutStopUSec":
			var stop time.Duration
			err = takeTime(p.Value, &stop)
		case "Type":
			err = take(p.Value, "s", &kind)
		case "KillMode":
			var mode string
			if err = take(p.Value, "s", &mode); err == nil && mode != "mixed" {
				err = fmt.Errorf("it is %q", mode)
			}
		case "ExecStart":
			var commands []struct {
				Path    string
				Args    []string
				Unclean bool
			}
			if err = take(p.Value, "a(sasb)", &commands); err != nil {
				break
			}
			if len(commands) != 1 || len(commands[0].Args) == 0 || commands[0].Args[0] != commands[0].Path {
				return t, refusal("org.freedesktop.DBus.Error.InvalidArgs", fmt.Sprintf("Odd commands %v.", commands))
			}
			t.Exec = expand(commands[0].Args)
		default:
			var value string
			if want[p.Name] == "" {
				return t, refusal("org.freedesktop.DBus.Error.PropertyReadOnly", "Cannot set property "+p.Name+", or unknown property.")
			}
			if err = take(p.Value, "s", &value); err == nil && value != want[p.Name] {
				err = fmt.Errorf("it is %q", value)
			}
			delete(want, p.Name)
		}
		if err != nil {
			return t, refusal("org.freedesktop.DBus.Error.InvalidArgs", "Bad value of "+p.Name+": "+err.Error())
		}
	}
	switch {
	case t.Exec == nil:
		return t, refusal("org.freedesktop.systemd1.BadUnitSetting", "Service has no ExecStart=.")
	case len(want) > 0:
		return t, refusal("org.freedesktop.DBus.Error.InvalidArgs", fmt.Sprintf("Properties %v are missing.", want))
	case t.Within > 0 != (kind == "oneshot") || t.Within == 0 && kind != "exec":
		return t, refusal("org.freedesktop.DBus.Error.InvalidArgs", fmt.Sprintf("Type %q, to start within %v.", kind, t.Within))
	case t.BindsTo != "" && !slices.Contains(after, t.BindsTo):
		return t, refusal("org.freedesktop.DBus.Error.InvalidArgs", "BindsTo without After.")
	}
	return t, nil
}

// expand is what a service gets as its arguments, where no variable is set: $NAME is a word of none, ${NAME} is empty, and $$
// is a dollar sign (systemd.service(5), "Command lines").
func expand(args []string) []string {
	var all []string
	for _, arg := range args {
		if len(arg) > 0 && arg[0] == '$' && !strings.HasPrefix(arg, "$$") && !strings.HasPrefix(arg, "${") {
			continue
		}
		var b strings.Builder
		for rest := arg; ; {
			before, after, ok := strings.Cut(rest, "$")
			b.WriteString(before)
			if !ok {
				break
			}
			name, behind, closed := strings.Cut(after, "}")
			switch {
			case strings.HasPrefix(after, "$"):
				b.WriteByte('$')
				rest = after[1:]
			case strings.HasPrefix(name, "{") && closed:
				rest = behind
			default:
				b.WriteByte('$')
				rest = after
			}
		}
		all = append(all, b.String())
	}
	return all
}

func takeTime(v dbus.Variant, into *time.Duration) error {
	var us uint64
	err := take(v, "t", &us)
	*into = time.Duration(us) * time.Microsecond
	return err
}

// take stores a value if it has the type.
func take(v dbus.Variant, signature string, into any) error {
	if got := v.Signature().String(); got != signature {
		return fmt.Errorf("it has the type %s, want %s", got, signature)
	}
	return v.Store(into)
}

// answeredByItself marks the calls to which inhibit sends the answer.
func answeredByItself(msg *dbus.Message) {
	if member, _ := msg.Headers[dbus.FieldMember].Value().(string); member == "Inhibit" {
		msg.Flags |= dbus.FlagNoReplyExpected
	}
}

// inhibit is org.freedesktop.login1.Manager.Inhibit. The lock is a pipe's end, which the client alone is to have, so that its
// closing is seen: the answer is sent here, as ours can be closed only after that.
func (s *service) inhibit(conn *dbus.Conn, call dbus.Message, what, who, why, mode string) *dbus.Error {
	reply := &dbus.Message{Type: dbus.TypeMethodReply, Headers: map[dbus.HeaderField]dbus.Variant{
		dbus.FieldReplySerial: dbus.MakeVariant(call.Serial()),
		dbus.FieldDestination: call.Headers[dbus.FieldSender],
	}}
	answer := func(body any) {
		reply.Headers[dbus.FieldSignature] = dbus.MakeVariant(dbus.SignatureOf(body))
		reply.Body = []any{body}
		conn.Send(reply, nil)
	}
	refuse := func(why *dbus.Error) {
		reply.Type = dbus.TypeError
		reply.Headers[dbus.FieldErrorName] = dbus.MakeVariant(why.Name)
		answer(why.Error())
	}
	if mode != "block" {
		refuse(refusal("org.freedesktop.DBus.Error.InvalidArgs", "Mode "+mode+" is not known here."))
		return nil
	}
	lock, err := s.m.Inhibit(s.ctx, what, who, why)
	if err != nil {
		refuse(failure(err))
		return nil
	}
	held, theirs, err := os.Pipe()
	if err != nil {
		lock.Close()
		refuse(failure(err))
		return nil
	}
	go func() {
		defer lock.Close()
		defer held.Close()
		_, _ = io.Copy(io.Discard, held)
	}()
	answer(dbus.UnixFD(theirs.Fd()))
	theirs.Close()
	return nil
}
