# Two guests on an AMD host with pages of 1G from boot, a card bound by its address, Looking Glass in /dev/shm, figures for
# Prometheus, and QEMU as NixOS' own user.
{
  users.users.carol.isNormalUser = true;
  services.prometheus.exporters.node = {
    enable = true;
    extraFlags = [ "--collector.textfile.directory=/var/lib/node-exporter" ];
  };
  virtualisation.libvirtd.qemu.runAsRoot = false;
  vfio = {
    enable = true;
    user = "carol";
    cpu = "amd";
    devices = {
      addresses = [
        "0000:0a:00.0"
        "0000:0a:00.1"
        "0000:0a:00.2"
      ];
      bindAtBoot = true;
      hideFromDesktop = true;
    };
    hugepages = {
      size = "1G";
      allocate = "at-boot";
    };
    lookingGlass = {
      enable = true;
      kvmfr = false;
    };
    hook.settings.guest.work.cpus.isolate = "pinned";
    spice.enable = true;
    openFirewall = true;
    scripts.sudo = true;
    vm = {
      name = "games";
      xmlPath = ../../win11.xml;
      autostart = true;
    };
    vms.work.xmlPath = "/var/lib/secret/work.xml";
  };
}
