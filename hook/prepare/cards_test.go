package prepare_test

import (
	"context"
	"path/filepath"
	"testing"

	"qemu-hook/hook/prepare"
	"qemu-hook/sysfs/sysfstest"
)

// Whole machines with a card for a guest: the plan is the golden file's, and after prepare and release the machine is as it
// was. One whose card is in use is refused by name, and given what it takes to free it, freed.
func TestCards(t *testing.T) {
	for _, test := range []struct {
		host      string
		functions []string
		frees     string   // the configuration that frees the card; "" if nobody uses it
		gone      []string // what then does not come back
	}{
		{host: "two-nvidia", functions: []string{"0000:06:00.0", "0000:06:00.1"}},
		{host: "hybrid-laptop", functions: []string{"0000:01:00.0", "0000:01:00.1"}},
		{host: "nouveau", functions: []string{"0000:01:00.0", "0000:01:00.1"}},
		{host: "amd-two", functions: []string{"0000:0b:00.0", "0000:0b:00.1"}},
		{host: "intel-arc", functions: []string{"0000:03:00.0", "0000:04:00.0"}},
		{host: "driverless", functions: []string{"0000:01:00.0", "0000:01:00.1"}},
		{host: "desktop-four", functions: []string{"0000:01:00.0", "0000:01:00.1", "0000:01:00.2", "0000:01:00.3"}},
		{
			host: "single-gpu-full", functions: []string{"0000:01:00.0", "0000:01:00.1"},
			frees: "services.stop = [\"gdm.service\"]\nsession.end = \"seat0\"\n",
			gone:  []string{"/proc", "/run/systemd/sessions", "/run/systemd/users", "/run/systemd/seats", "/sys/module"},
		},
	} {
		t.Run(test.host, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, test.host)
			r.configure("")
			n := card(test.functions...)
			before := r.snapshot()
			plan, err := prepare.NewPlan(context.Background(), r.host(), n)
			if err != nil {
				t.Fatal(err)
			}
			golden(t, filepath.Join("../../testdata/hosts", test.host+".plan"), planText(plan))
			if refused := len(plan.Refusals) > 0; refused != (test.frees != "") {
				t.Fatalf("refused: %q", plan.Refusals)
			}
			if test.frees != "" {
				if err := r.prepare(n); err == nil {
					t.Error("a card in use was taken")
				}
				r.wantAsBefore(before, "after the refusal")
				r.configure(test.frees)
			}
			if err := r.prepare(n); err != nil {
				t.Fatalf("prepare: %v", err)
			}
			if err := r.release(n); err != nil {
				t.Errorf("release: %v", err)
			}
			if diff := sysfstest.Diff(before.Without(test.gone...), r.snapshot().Without(test.gone...)); diff != "" {
				t.Errorf("after release the host is not as before:\n%s", diff)
			}
		})
	}
}
