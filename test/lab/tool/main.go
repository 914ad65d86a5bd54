// Command labtool is what the lab's scenarios need in the machine beside a shell: the snapshot of the whole state and
// its comparison, and processes that are in the hook's way.
package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
)

const usage = `usage:
  labtool snapshot                        print the machine's state, one value a line
  labtool compare BEFORE AFTER EXPLAINED  print what differs; status 3 if a line is matched by none of the expressions in EXPLAINED
  labtool hold FILE                       keep FILE open
  labtool hide FILE                       keep FILE open where no look into /proc finds it
  labtool steal PID TEXT                  keep what another process has open open too: the first whose link holds TEXT
  labtool pages COUNT [NODE]              use huge pages of 2 MiB; at SIGTERM they must still hold what was written
  labtool fragment MIB NODE               take memory in small pages and give every second one back
Those that stay say "ready" once they have what they asked for`

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "labtool:", err)
		if errors.Is(err, errDiffers) {
			os.Exit(3)
		}
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 0 {
		return errors.New(usage)
	}
	name, args := args[0], args[1:]
	switch {
	case name == "snapshot" && len(args) == 0:
		return printSnapshot()
	case name == "compare" && len(args) == 3:
		return compare(args[0], args[1], args[2])
	case name == "hold" && len(args) == 1:
		return hold(args[0])
	case name == "hide" && len(args) == 1:
		return hide(args[0])
	case name == "steal" && len(args) == 2:
		pid, err := strconv.Atoi(args[0])
		if err != nil {
			return err
		}
		return steal(pid, args[1])
	case name == "pages" && (len(args) == 1 || len(args) == 2):
		n, err := numbers(args)
		if err != nil {
			return err
		}
		return usePages(n)
	case name == "fragment" && len(args) == 2:
		n, err := numbers(args)
		if err != nil {
			return err
		}
		return fragment(n[0], n[1])
	}
	return errors.New(usage)
}

func numbers(args []string) ([]int, error) {
	var all []int
	for _, a := range args {
		n, err := strconv.Atoi(a)
		if err != nil {
			return nil, err
		}
		all = append(all, n)
	}
	return all, nil
}
