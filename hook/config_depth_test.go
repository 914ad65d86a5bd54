package hook

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// No file, however made, keeps a guest waiting.
func TestParseConfigHostile(t *testing.T) {
	repeat := func(f string, n int) string {
		var b strings.Builder
		for i := 0; b.Len() < n-len(f)-50; i++ {
			fmt.Fprintf(&b, f, i)
		}
		return b.String()
	}
	n := MaxConfig
	for name, text := range map[string]string{
		"dotted":       strings.Repeat("a.", n/2-4) + "a=1",
		"dotted table": "[" + strings.Repeat("a.", n/2-4) + "a]",
		"arrays":       "a=" + strings.Repeat("[", n-8),
		"arrays whole": "a=" + strings.Repeat("[", n/2-4) + strings.Repeat("]", n/2-4),
		"inline":       "a=" + strings.Repeat("{a=", n/3-4),
		"inline whole": "a=" + strings.Repeat("{a=", n/4-4) + "1" + strings.Repeat("}", n/4-4),
		"tables":       repeat("[a%d]\n", n),
		"aot":          repeat("[[a]]\n#%d\n", n),
		"nested aot":   repeat("[[a]]\n[[a.b]]\n#%d\n", n),
		"guests":       repeat("[guest.g%d.cpus]\nx=1\n", n),
		"deep guests":  repeat("guest.g%[1]d.a.b.c.d.e=1\n", n),
		"files":        "looking_glass.files=[" + repeat(`{path="/dev/shm/%d",size=4096},`, n) + "]",
		"units":        "cpus.units=[" + repeat(`"%d.slice",`, n) + "]",
		"string":       "cpus.host=\"" + strings.Repeat("0,", n/2-10) + "\"",
		"multi-line":   `cpus.host="""` + strings.Repeat("\n", n-30) + `"""`,
		"escapes":      `cpus.host="` + strings.Repeat(`\u00e9`, n/6-10) + `"`,
		"comments":     strings.Repeat("#\n", n/2),
		"many keys":    repeat("k%d=1\n", n),
	} {
		start := time.Now()
		_, err := ParseConfig("c", []byte(text))
		if d := time.Since(start); d > 30*time.Second {
			t.Errorf("%s: %v, %.100v", name, d, err)
		} else {
			t.Logf("%s: %v, %.100v", name, d, err)
		}
	}
}

func TestConfigTooDeep(t *testing.T) {
	deep := "a.a.a.a.a.a.a.a.a.a.a=1"
	for text, want := range map[string]int{
		"":                                       0,
		deep:                                     1,
		"\n\n" + deep:                            3,
		"# " + deep + "\n":                       0,
		"# " + deep:                              0,
		`a = "` + deep + `"`:                     0,
		`a = '` + deep + `'`:                     0,
		`a = "\"` + deep + `"`:                   0,
		`a = '\'` + "\n" + deep:                  2,
		"a = '''\n'" + deep + "\n'''":            0,
		`a = """x"""""` + "\n" + deep:            2,
		`a = """\"""` + deep + `"""`:             0,
		`a = ""` + "\n" + deep:                   2,
		`a = "` + "\n" + deep:                    2,
		`"` + deep + `" = 1`:                     0,
		"[" + deep[:20] + "]":                    1,
		"a = [[[[[[[[[]]]]]]]]]":                 1,
		"a = [[[[[[[[]]]]]]]]\n[b]\n[[c]]":       0,
		"a = {a={a={a={a={a={a={a={a={a={":       1,
		strings.Repeat("a.b = [1.5, 2.5]\n", 99): 0,
		"guest.a.shm.b.user = 'x'\nguest.\"a.b.c.d.e.f.g\".x = 1": 0,
	} {
		if got := configTooDeep([]byte(text)); got != want {
			t.Errorf("%q: line %d, want %d", text, got, want)
		}
	}
}
