// Command summary reads what "go test -json" prints and says what a person wants to know: each package's result, all
// that a failed test printed, and every skipped test with its reason. Its exit status is 1 if anything failed.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
)

// event is a line of "go test -json" (go doc test2json).
type event struct {
	Action     string
	Package    string
	ImportPath string // of a failed build
	Test       string
	Output     string
	Elapsed    float64
}

func main() {
	failed, err := summarize(os.Stdin, os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "summary:", err)
	}
	if failed || err != nil {
		os.Exit(1)
	}
}

func summarize(r io.Reader, w io.Writer) (failed bool, err error) {
	type key struct{ pkg, test string }
	said := map[key][]string{}
	var skips []string
	passed, packages := 0, 0
	in := bufio.NewScanner(r)
	in.Buffer(nil, 64<<20)
	for in.Scan() {
		var e event
		if json.Unmarshal(in.Bytes(), &e) != nil {
			// What the go command itself has to say.
			fmt.Fprintln(w, in.Text())
			continue
		}
		k := key{e.Package, e.Test}
		switch e.Action {
		case "output":
			said[k] = append(said[k], e.Output)
			continue
		case "build-output":
			fmt.Fprint(w, e.Output)
			continue
		case "build-fail":
			failed = true
			continue
		case "fail":
			failed = true
			name := strings.TrimSuffix(e.Package+" "+e.Test, " ")
			fmt.Fprintf(w, "FAIL  %s (%.1f s)\n", name, e.Elapsed)
			for _, line := range said[k] {
				if !noise(line) {
					fmt.Fprint(w, "      "+line)
				}
			}
		case "skip":
			if e.Test != "" {
				skips = append(skips, e.Package+" "+e.Test+": "+reason(said[k]))
			}
		case "pass":
			if e.Test != "" {
				passed++
				break
			}
			packages++
			fmt.Fprintf(w, "ok    %s (%.1f s)\n", e.Package, e.Elapsed)
		default:
			continue
		}
		delete(said, k)
	}
	if err := in.Err(); err != nil {
		return true, err
	}
	if packages == 0 && !failed {
		return true, fmt.Errorf("no package was tested")
	}
	fmt.Fprintf(w, "%d packages and %d tests passed, %d tests skipped\n", packages, passed, len(skips))
	for _, s := range skips {
		fmt.Fprintln(w, "skip  "+s)
	}
	return failed, nil
}

// noise is what the go command prints around a test's own output.
func noise(line string) bool {
	for _, prefix := range []string{"=== RUN", "=== PAUSE", "=== CONT", "=== NAME"} {
		if strings.HasPrefix(line, prefix) {
			return true
		}
	}
	return false
}

// reason is what a skipped test said.
func reason(lines []string) string {
	var s []string
	for _, line := range lines {
		if line = strings.TrimSpace(line); !noise(line) && !strings.HasPrefix(line, "--- SKIP") {
			s = append(s, line)
		}
	}
	return strings.Join(s, " ")
}
