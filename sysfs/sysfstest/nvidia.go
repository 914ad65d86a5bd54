package sysfstest

import (
	"fmt"
	"strconv"
	"strings"
	"syscall"
)

// addNVIDIA makes what NVIDIA's driver says of a card in /proc, and returns what goes with it.
func (h *Host) addNVIDIA(d *pciDevice) (gone string) {
	dir := "/proc/driver/nvidia/gpus/" + d.addr
	h.text(dir+"/information", 0o444, fmt.Sprintf("Model: \t\t NVIDIA GPU\nIRQ:   \t\t 0\nGPU UUID: \t GPU-%08x-0000-4000-8000-%012x\n"+
		"Video BIOS: \t ??.??.??.??.??\nBus Type: \t PCIe\nDMA Size: \t 47 bits\nDMA Mask: \t 0x7fffffffffff\n"+
		"Bus Location: \t %s\nDevice Minor: \t %d\nGPU Excluded:\t No\n", d.device, d.subID, d.addr, d.minor))
	return dir
}

// The exit codes of nvidia-smi(1).
const (
	smiInvalid  = 2
	smiNotFound = 6
	smiNoDriver = 9
)

// nvidiaSMI is what nvidia-smi does with its arguments, and prints: persistence mode, for one card or for all.
func (h *Host) nvidiaSMI(args []string) (out string, code int, err error) {
	var query, set, card string
	header := true
	for i := 0; i < len(args); i++ {
		a := args[i]
		more := i+1 < len(args)
		switch {
		case a == "-i" && more:
			i++
			card = args[i]
		case a == "-pm" && more:
			i++
			set = args[i]
		case strings.HasPrefix(a, "--query-gpu="):
			query = strings.TrimPrefix(a, "--query-gpu=")
		case strings.HasPrefix(a, "--format="):
			header = !strings.Contains(a, "noheader")
		default:
			return "Invalid combination of input arguments. Please run 'nvidia-smi -h' for help.\n", smiInvalid, syscall.EINVAL
		}
	}
	if m := h.modules["nvidia"]; m == nil || !m.loaded {
		return "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. " +
			"Make sure that the latest NVIDIA driver is installed and running.\n\n", smiNoDriver, syscall.ENODEV
	}
	var cards []*pciDevice
	for _, addr := range h.addresses() {
		d := h.pci[addr]
		named := card == "" || strings.HasSuffix(card, addr) || card == strconv.Itoa(d.minor)
		if named && d.driver == "nvidia" && d.class>>16 == 3 {
			cards = append(cards, d)
		}
	}
	if len(cards) == 0 {
		return "No devices were found\n", smiNotFound, syscall.ENODEV
	}
	state := map[bool]string{true: "Enabled", false: "Disabled"}
	var b strings.Builder
	if query != "" && header {
		b.WriteString(query + "\n")
	}
	for _, d := range cards {
		if !h.wake(d) {
			return b.String() + "Unable to determine the device handle for GPU 0000" + d.addr + ": Unknown Error\n", smiNotFound, syscall.EIO
		}
		switch {
		case set == "0" || set == "1":
			d.persistence = set == "1"
			fmt.Fprintf(&b, "%s persistence mode for GPU 0000%s.\n", state[d.persistence], strings.ToUpper(d.addr))
		case set != "", query != "" && query != "persistence_mode":
			return "Invalid argument\n", smiInvalid, syscall.EINVAL
		case query != "":
			b.WriteString(state[d.persistence] + "\n")
		}
	}
	if set != "" {
		b.WriteString("All done.\n")
		h.stir()
	}
	return b.String(), 0, nil
}
