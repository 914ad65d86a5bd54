package hook

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	"qemu-hook/sysfs"
)

// dropsModesetCount reports whether a version of NVIDIA's driver has nvidia_drm let go of a single card that is unbound. With
// modeset on nvidia_drm uses every card, without a file or a process that could be seen; versions that do not call
// nvidia_modeset_remove before they look at the usage count wait for that use to end, for ever
// (kernel-open/nvidia/nv-pci.c and nv-modeset-interface.c of NVIDIA/open-gpu-kernel-modules, all tags up to 595.45.04):
//
//	branch          first version that lets go   last that does not
//	535 to 575      none                         575.64.05
//	580.94 (beta)   580.94.06                    580.94.03
//	580             580.105.08                   580.95.05
//	590, 595        590.44.01, all of 595        none
//
// A version that cannot be read counts as one that does not.
func dropsModesetCount(version string) bool {
	var v []int
	for part := range strings.SplitSeq(version, ".") {
		n, err := strconv.Atoi(part)
		if err != nil {
			return false
		}
		v = append(v, n)
	}
	beta := []int{580, 94}
	if len(v) == 3 && slices.Equal(v[:2], beta) {
		return v[2] >= 6
	}
	return slices.Compare(v, []int{580, 105, 8}) >= 0
}

// nvidiaBusy reports whether NVIDIA's driver has the card running although no process is seen to use it: it turns the card's
// interrupts on before it first counts a user and off after the last (kernel-open/nvidia/nv.c). Users that no look into /proc
// finds are, for one, buffers that were passed on to other programs. Where the driver may have a card running without any
// user it proves nothing, and the answer is no.
func (h *Host) nvidiaBusy(address string) (bool, error) {
	const parameters = "/proc/driver/nvidia/params"
	v, err := h.Read(parameters)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	values := map[string]string{}
	for line := range strings.Lines(v) {
		key, value, _ := strings.Cut(line, ":")
		values[strings.TrimSpace(key)] = strings.TrimSpace(value)
	}
	if values["EnableMSI"] != "1" || values["GpuInitOnProbe"] == "1" {
		return false, nil
	}
	if modeset, err := h.nvidiaModeset(); err != nil || modeset {
		return false, err
	}
	irqs, err := h.ReadDir(sysfs.PCIDevice(address) + "/msi_irqs")
	return err == nil && len(irqs) > 0, nil
}

// NVIDIAHoldsItself reports whether NVIDIA's driver counts itself as a user of every card: with nvidia_drm's modeset on, and
// a version that does not let go of a single card that is unbound.
func (h *Host) NVIDIAHoldsItself() (holds bool, why string, err error) {
	if modeset, err := h.nvidiaModeset(); err != nil || !modeset {
		return false, "", err
	}
	version, err := h.Read("/sys/module/nvidia/version")
	if err != nil {
		version = "of an unknown version"
	}
	if dropsModesetCount(version) {
		return false, "", nil
	}
	return true, fmt.Sprintf("with modeset on, nvidia_drm %s uses every card itself and does not let go of one", version), nil
}

// nvidiaModeset reports whether nvidia_drm drives displays: /sys/module/nvidia_drm/parameters/modeset.
func (h *Host) nvidiaModeset() (bool, error) {
	v, err := h.Read("/sys/module/nvidia_drm/parameters/modeset")
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return v == "Y", err
}
