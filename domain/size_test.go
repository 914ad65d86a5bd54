package domain

import (
	"strings"
	"testing"
)

func TestSize(t *testing.T) {
	const gib = 1 << 30
	tests := []struct {
		name, xml string
		want      Size
	}{
		{"nothing said", "", Size{VCPUs: 1}},
		{"all said", "<memory unit='GiB'>8</memory><vcpu current='2'>6</vcpu><iothreads> 2 </iothreads>", Size{6, 8 * gib, 2}},
		{"rounded to MiB", "<memory>1048577</memory>", Size{1, gib + 1<<20, 0}},
		{"cells instead of memory", "<memory>1</memory><cpu><numa><cell memory='2' unit='GiB'/><cell memory='3' unit='GiB'/></numa></cpu>", Size{1, 5 * gib, 0}},
		{"cells and modules", "<cpu><numa><cell memory='2' unit='GiB'/></numa></cpu><devices><memory model='dimm'><target><size unit='GiB'>1</size></target></memory></devices>", Size{1, 3 * gib, 0}},
		{"memory counts modules", "<memory unit='GiB'>4</memory><devices><memory model='dimm'><target><size unit='GiB'>1</size></target></memory></devices>", Size{1, 4 * gib, 0}},
		{"too much", "<memory unit='EiB'>15</memory><iothreads>-1</iothreads>", Size{VCPUs: 1}},
	}
	for _, tt := range tests {
		n, err := Parse(strings.NewReader("<domain>" + tt.xml + "</domain>"))
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
		} else if n.Size != tt.want {
			t.Errorf("%s: %+v, want %+v", tt.name, n.Size, tt.want)
		}
	}
}
