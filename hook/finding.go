package hook

import "fmt"

// A Finding is something that a person should know, with what to do about it.
type Finding struct {
	Text string
	// Certain says that it cannot work like that; else it is advice.
	Certain bool
}

// Advise returns a finding that is advice.
func Advise(format string, args ...any) Finding { return Finding{Text: fmt.Sprintf(format, args...)} }
