# shows: the host is shut down with a guest running: the guest is released before libvirtd is gone, in time
# powers-off: yes
define win
start win
prepared win
# The witness was started before libvirtd, as systemd sees it, so it is stopped after it.
systemd-run -q --unit lab-witness --property RemainAfterExit=yes --property RequiresMountsFor="/lab /run/lab" \
	--property Before=libvirtd.service --property ExecStop="/lab/guest/witness $OUT" true
GUESTS=() # tidy is to leave it running
systemctl poweroff
