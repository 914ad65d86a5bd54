package journal

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"time"

	"qemu-hook/text"
)

// maxTold is how many characters of a text of unknown origin an error has: a guest's name is somebody else's.
const maxTold = 60

// A DirError is a state directory that cannot be used.
type DirError struct {
	Path    string
	Problem string // what is wrong with it, if it is not Err
	Remedy  string // the command that mends it, if there is one
	Err     error
}

func (e *DirError) Error() string { return explain("use", e.Path, e.Problem, e.Remedy, e.Err) }

// Unwrap returns the operating system's answer: errors.Is(err, fs.ErrPermission) and the like.
func (e *DirError) Unwrap() error { return e.Err }

// A FileError is a file of the state directory that cannot be read, trusted or written. The file is as it was.
type FileError struct {
	Op      string // "read", "write", "remove"
	Path    string
	Line    int  // of an undo log; 0 when it is not about one line
	Newer   bool // written by a later version of the program
	Problem string
	Remedy  string
	Err     error
}

func (e *FileError) Error() string {
	problem := e.Problem
	if e.Line > 0 {
		problem = "line " + strconv.Itoa(e.Line) + " " + problem
	}
	return explain(e.Op, e.Path, problem, e.Remedy, e.Err)
}

// Unwrap returns the operating system's answer, if it is about one.
func (e *FileError) Unwrap() error { return e.Err }

// A HeldError is a lock that somebody else did not give up in time.
type HeldError struct {
	Path   string        // of the state directory
	PID    int           // of the process that took the lock; 0 if unknown
	Gone   bool          // that process has ended, but a child of it goes on and has the lock
	Holder string        // what it took it for
	For    time.Duration // how long ago
	Err    error         // why the waiting ended
}

func (e *HeldError) Error() string {
	if e.PID == 0 {
		return "cannot lock " + e.Path + ": held by another process"
	}
	who := "pid " + strconv.Itoa(e.PID)
	if e.Gone {
		who = "a child of " + who + ", which has ended"
	}
	return fmt.Sprintf("cannot lock %s: held for %s by %s (%s)", e.Path, since(e.For), who, text.Line(text.Short(e.Holder, maxTold)))
}

// Unwrap returns the context's error.
func (e *HeldError) Unwrap() error { return e.Err }

// explain puts a message together: what failed, why, what to do.
func explain(op, path, problem, remedy string, err error) string {
	s := "cannot " + op + " " + path + ": "
	switch {
	case problem != "":
		s += problem
	case err != nil:
		s += err.Error()
	}
	if remedy != "" {
		s += "; " + remedy
	}
	return s
}

// cause drops the operation and path that package os repeats.
func cause(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	var l *os.LinkError
	if errors.As(err, &l) {
		return l.Err
	}
	return err
}

// since renders a duration as a reader wants it: "12 s", "300 ms".
func since(t time.Duration) string {
	if t < time.Second {
		return strconv.FormatInt(max(0, t.Milliseconds()), 10) + " ms"
	}
	return strconv.FormatInt(int64(t/time.Second), 10) + " s"
}
