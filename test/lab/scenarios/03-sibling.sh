# shows: a function whose group holds another one on a host driver is refused with a sentence that names it
define win pci="01:00.0"
refused win "IOMMU group 12 of 0000:01:00.0 is not viable: 0000:01:00.1 [8086:2668] (snd_hda_intel) stays on a host driver"
as_before "$REFUSAL"
define win
start win
prepared win
stop win
as_before
