package cpuset

import (
	"strings"
	"testing"
	"time"
)

func TestParseList(t *testing.T) {
	for in, want := range map[string]string{
		"":             "",
		" \n":          "",
		",":            "",
		"0":            "0",
		"0-3,16\n":     "0-3,16",
		"16,0-3":       "0-3,16",
		"3,3,2-3":      "2-3",
		"0,1":          "0-1",
		"0-31:2/4":     "0-1,4-5,8-9,12-13,16-17,20-21,24-25,28-29",
		"0-9:1/4":      "0,4,8",
		"0-9:0/4":      "",
		"0-9:4/4":      "0-9",
		"1 3\t5":       "1,3,5",
		"0-3,,5":       "0-3,5",
		"007":          "7",
		"63-64":        "63-64",
		"0-63":         "0-63",
		"16383":        "16383",
		"0-16383":      "0-16383",
		"0-7,16-23\n ": "0-7,16-23",
	} {
		s, err := ParseList(in)
		if err != nil || s.String() != want {
			t.Errorf("%q: %q, %v; want %q", in, s, err, want)
		}
	}
	for in, want := range map[string]string{
		"0-x":         `cannot parse CPU list "0-x": "x" is not a number; allowed are numbers and ranges such as 0-3,16`,
		"0-":          "a number is missing at the end",
		"-1":          `"-1" is not a number`,
		"+1":          `"+1" is not a number`,
		"3-1":         `the range "3-1" runs backwards`,
		"0-3-5":       `"-5" is not expected after "0-3"`,
		"1x":          `"x" is not expected after "1"`,
		"^1":          `"^1" is not a number`,
		"0-3:1":       `"1" is not used/group`,
		"0-3:1/0":     "a group of 0 CPUs",
		"0-3:3/2":     "3 used out of a group of 2",
		"4:1/2":       `":1/2" is not expected after "4"`,
		"all":         `"all" depends on the host, write the numbers`,
		"N":           `"N" depends on the host`,
		"0-N":         `"N" is not a number`,
		"1 - 3":       `"-" is not a number`,
		"16384":       "16384 is too large, the largest number allowed is 16383",
		"ü":           `"ü" is not a number`,
		"0x1":         `"x1" is not expected`,
		"1\u00a03":    "is not expected",
		"0-3:1/99999": "99999 is too large",
	} {
		_, err := ParseList(in)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want one with %q", in, err, want)
		}
	}
}

func TestParseLibvirt(t *testing.T) {
	for in, want := range map[string]string{
		"0":           "0",
		"1-4,^3":      "1-2,4",
		"^3,1-4":      "1-4",
		"1-4,^3,3":    "1-4",
		" 1 - 4 ,":    "1-4",
		" 1 , 3 ":     "1,3",
		"0-7 , ^2 ,9": "0-1,3-7,9",
		"3-3":         "3",
		"1,2,":        "1-2",
		"1-4,^9":      "1-4",
		"16383":       "16383",
		"1\n":         "1",
	} {
		s, err := ParseLibvirt(in)
		if err != nil || s.String() != want {
			t.Errorf("%q: %q, %v; want %q", in, s, err, want)
		}
	}
	for in, want := range map[string]string{
		"":         `cannot parse libvirt CPU set "": it is empty; allowed are numbers, ranges and exclusions such as 0-7,^3`,
		" ":        "it is empty",
		",1":       `",1" is not a number`,
		"1,,2":     `",2" is not a number`,
		"1,^1":     "nothing is left in it",
		"^1":       "nothing is left in it",
		"0-7,^2-3": "^2-3 excludes a range, only single numbers can be excluded",
		"4-1":      "the range 4-1 runs backwards",
		"1 2":      `"2" is not expected`,
		"1-2-3":    `"-3" is not expected`,
		"^ 1":      `" 1" is not a number`,
		"1-":       "a number is missing at the end",
		"0-3:1/2":  `":1/2" is not expected`,
		"16384":    "16384 is too large",
		"^16384,1": "16384 is too large",
	} {
		_, err := ParseLibvirt(in)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want one with %q", in, err, want)
		}
	}
}

func TestParseMask(t *testing.T) {
	for in, want := range map[string]string{
		"":                                 "",
		"0":                                "",
		"00000000,00000000":                "",
		"ff":                               "0-7",
		"FF\n":                             "0-7",
		"1,ffffffff":                       "0-32",
		"1ffffffff":                        "0-32",
		"1,f":                              "0-3,32",
		"00000000,000fffff":                "0-19",
		"80000000,00000000":                "63",
		"1,00000000,00000000":              "64",
		"10000000000000000":                "64",
		"0,0,0,0,0,0,0,0,0,01":             "0",
		strings.Repeat("0", 9000) + "1":    "0",
		"8" + strings.Repeat("0", Max/4-1): "16383",
	} {
		s, err := ParseMask(in)
		if err != nil || s.String() != want {
			t.Errorf("%q: %q, %v; want %q", clip(in), s, err, want)
		}
	}
	for in, want := range map[string]string{
		"g":                              `cannot parse CPU mask "g": "g" is not hexadecimal; allowed are hexadecimal digits with a comma before every 32 bits`,
		"0xff":                           `"0xff" is not hexadecimal`,
		"1,":                             "digits are missing beside a comma",
		",1":                             "digits are missing beside a comma",
		"1,fffffffff":                    `"fffffffff" is more than 32 bits`,
		"1 2":                            `"1 2" is not hexadecimal`,
		"+f":                             `"+f" is not hexadecimal`,
		"1" + strings.Repeat("0", Max/4): "it has a CPU beyond 16383",
	} {
		_, err := ParseMask(in)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want one with %q", clip(in), err, want)
		}
	}
}

func TestMaskWidth(t *testing.T) {
	for _, test := range []struct {
		cpus      int
		set, want string
	}{
		{0, "0-3", "f"},
		{20, "0-3", "0000f"},
		{20, "", "00000"},
		{32, "31", "80000000"},
		{33, "0", "0,00000001"},
		{36, "0", "0,00000001"},
		{37, "0", "00,00000001"},
		{64, "0-31", "00000000,ffffffff"},
		{128, "64", "00000000,00000001,00000000,00000000"},
		{4, "0-32", "1,ffffffff"},
	} {
		s, err := ParseList(test.set)
		if err != nil {
			t.Fatal(err)
		}
		if got := s.MaskWidth(test.cpus); got != test.want {
			t.Errorf("%q on %d CPUs: %q, want %q", test.set, test.cpus, got, test.want)
		}
	}
}

// Numbers that nobody means must not cost time or memory.
func TestHuge(t *testing.T) {
	start := time.Now()
	for _, in := range []string{
		"0-4000000000", "4000000000", "18446744073709551616", "0-18446744073709551616", "99999999999999999999999999",
		"0-3:18446744073709551616/2", strings.Repeat("9", 1<<20), strings.Repeat("0-16383:1/2,", 1<<18), strings.Repeat("f", 1<<20),
	} {
		for name, parse := range map[string]func(string) (Set, error){"list": ParseList, "libvirt": ParseLibvirt, "mask": ParseMask} {
			s, err := parse(in)
			if name != "mask" && err == nil {
				t.Errorf("%s %q: no error but %s", name, clip(in), s)
			}
			if err != nil && len(err.Error()) > 500 {
				t.Errorf("%s: an error of %d bytes", name, len(err.Error()))
			}
		}
	}
	if allocs := testing.AllocsPerRun(10, func() { _, _ = ParseList("0-4000000000") }); allocs > 20 {
		t.Errorf("%v allocations", allocs)
	}
	// The longest list that the kernel prints.
	var odd builder
	for id := 1; id < Max; id += 2 {
		odd.add(id)
	}
	if s, err := ParseList(odd.set().String()); err != nil || s.Len() != Max/2 {
		t.Errorf("%d CPUs, %v", s.Len(), err)
	}
	if took := time.Since(start); took > 30*time.Second {
		t.Errorf("it took %s", took)
	}
}

func fuzz(f *testing.F, parse func(string) (Set, error), write func(Set) string, seeds ...string) {
	for _, s := range seeds {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		s, err := parse(in)
		if err != nil {
			return
		}
		out := write(s)
		again, err := parse(out)
		if err != nil || !again.Equal(s) {
			t.Errorf("%q is %q, which is %q, %v", in, out, again, err)
		}
	})
}

func FuzzParseList(f *testing.F) {
	fuzz(f, ParseList, Set.String, "", "0-3,16", "0-31:2/4", "all", "1 2\n")
}

func FuzzParseLibvirt(f *testing.F) {
	fuzz(f, ParseLibvirt, Set.String, "1-4,^3", " 1 , 3-5 ", "^3,1-4")
}

func FuzzParseMask(f *testing.F) {
	fuzz(f, ParseMask, Set.Mask, "ff", "1,ffffffff", "0,0", "fffffffff")
}
