package hook

import "testing"

func TestFormatBytes(t *testing.T) {
	for n, want := range map[uint64]string{
		0: "0 bytes", 1023: "1023 bytes", 1024: "1 KiB", 64 << 20: "64 MiB", 1536 << 20: "1.5 GiB",
		33554432000: "31.2 GiB", 23316 << 20: "22.8 GiB", 3 << 40: "3 TiB", 5000 << 40: "5000 TiB",
	} {
		if got := FormatBytes(n); got != want {
			t.Errorf("FormatBytes(%d) is %q, want %q", n, got, want)
		}
	}
}
