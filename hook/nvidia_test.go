package hook

import "testing"

// Pitfall 1: the table of versions that let go of a single card though modeset is on.
func TestDropsModesetCount(t *testing.T) {
	for version, want := range map[string]bool{
		"535.288.01": false, "550.163.01": false, "570.211.01": false, "575.64.05": false,
		"580.65.06": false, "580.94.03": false, "580.94.06": true, "580.94.11": true, "580.95.05": false,
		"580.105.08": true, "580.142": true, "590.44.01": true, "595.45.04": true, "610.57.04": true,
		"": false, "580.105.08-open": false, "of an unknown version": false,
	} {
		if got := dropsModesetCount(version); got != want {
			t.Errorf("%q: %v", version, got)
		}
	}
}
