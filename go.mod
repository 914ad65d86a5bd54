module qemu-hook

go 1.26

require (
	github.com/BurntSushi/toml v1.6.0
	github.com/coreos/go-systemd/v22 v22.7.0
	github.com/godbus/dbus/v5 v5.2.4
	github.com/google/renameio/v2 v2.0.2
	github.com/prometheus/procfs v0.20.0
	golang.org/x/sys v0.45.0
	golang.org/x/tools v0.42.0
	libvirt.org/go/libvirtxml v1.12002.0
)

// What follows is needed by tests alone.
require (
	github.com/google/go-cmp v0.7.0
	github.com/hanwen/go-fuse/v2 v2.12.1
	github.com/rogpeppe/go-internal v1.16.0
	pgregory.net/rapid v1.3.0
)
