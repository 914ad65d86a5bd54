package hook

import (
	"strconv"
	"strings"
)

// QuoteName renders a guest's name as an argument of one of the program's commands.
func QuoteName(name string) string {
	if strings.HasPrefix(name, "-") {
		return "-- " + strconv.Quote(name)
	}
	return strconv.Quote(name)
}

// FormatBytes prints a size for people: in the largest binary unit that it fills, with one decimal where it is no
// whole number of that unit.
func FormatBytes(n uint64) string {
	unit, size := "bytes", uint64(1)
	for _, u := range []string{"KiB", "MiB", "GiB", "TiB"} {
		if n/1024 < size {
			break
		}
		unit, size = u, size*1024
	}
	v := strconv.FormatFloat(float64(n)/float64(size), 'f', 1, 64)
	return strings.TrimSuffix(v, ".0") + " " + unit
}
