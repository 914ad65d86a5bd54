# shows: the host is shut down with a guest running: the guest is shut down and released before libvirtd is gone, in time
# powers-off: yes

# A boot sector in place of a system: it waits for the power button, then writes "off" to q35's power register.
printf '\xba\x02\x06\xb8\x00\x01\xef\xba\x00\x06\xfb\xf4\xed\xf6\xc4\x01\x74\xf8\xba\x04\x06\xb8\x00\x20\xef\xf4\xeb\xfd' >/var/tmp/button.img
truncate -s 510 /var/tmp/button.img
printf '\x55\xaa' >>/var/tmp/button.img
truncate -s 1M /var/tmp/button.img

# libvirt's own service for this, which Debian enables; without it nobody waits between a guest's end and libvirtd's.
printf 'ON_SHUTDOWN=shutdown\nSHUTDOWN_TIMEOUT=60\n' >/etc/default/libvirt-guests
rm /etc/systemd/system/libvirt-guests.service
systemctl daemon-reload
systemctl start libvirt-guests

explain '(unit|run of) .*|cgroup .*: .* -> \(none\)' "all units are being stopped"
explain 'cgroup /[a-z]+[.](slice|scope) (cpus:  -> 0-7|partition:  -> member)' "systemd turns no controller off any more; the CPUs are all there"
explain 'pci 0000:01:00[.][01] (driver|driver_override): .* -> vfio-pci|pci 0000:01:00[.][01] (enable|power/control): .*' \
	"the card stays where it is: a host that goes down loads no driver"
explain 'file /dev/(dri|snd)/.*0000:01:00[.][01].*|file /dev/vfio/12: .*|irq of snd_hda_intel:.*|/proc/fb: .*' "nor has it the nodes of one"
explain 'file /etc/libvirt/qemu/win.xml: .*|file /run/systemd/transient/lab-witness.service: .*' "the scenario's own"
explain 'processes of virsh: .*' "libvirt-guests waits for libvirtd's sockets, not for libvirtd, and may ask once more"
explain 'file /run/systemd/transient/machine-qemu.*win[.]scope: .*' "a scope that has ended, until systemd forgets it"
explain 'file /run/qemu-hook/refusals.json: .* -> \(none\)' "an earlier scenario's, until the guest starts"

define win disk=/var/tmp/button.img
start win
prepared win
# The witness was started before libvirtd, as systemd sees it, so it is stopped after it.
systemd-run -q --unit lab-witness --property RemainAfterExit=yes --property RequiresMountsFor="/lab /run/lab" \
	--property Before=libvirtd.service --property ExecStop="/lab/guest/witness $OUT" true
GUESTS=() # tidy is to leave it running
systemctl poweroff
