# `vfio.profile = "plan"`: what the plan of a VFIO host has on. Each line can be overridden alone.
{ config, lib, ... }:

let
  inherit (lib) mkDefault mkIf;
  cfg = config.vfio;
in
{
  _class = "nixos";

  config.vfio = mkIf (cfg.profile == "plan") {
    groups = mkDefault [
      "wheel"
      "networkmanager"
      "video"
      "libvirtd"
      "kvm"
      "qemu-libvirtd"
    ];
    devices.bindAtBoot = mkDefault true;
    blacklistNvidia = mkDefault true;
    kernelParams = {
      memory = mkDefault true;
      quiet = mkDefault true;
      rcu = mkDefault true;
      kvm = mkDefault true;
      acpi = mkDefault true;
    };
    network.enable = mkDefault true;
    lookingGlass.enable = mkDefault true;
    scripts.sudo = mkDefault true;
    spice.enable = mkDefault true;
    packages.enable = mkDefault true;

    # What start-vfio set by hand, and stop-vfio put to other constants. The hook puts back what was there. CPUs that the host
    # keeps are left to the host's own settings, and vm.overcommit_memory=2 to you: see README.md.
    hook.settings = {
      cpus.governor = mkDefault "performance";
      tunables = {
        "vm.swappiness" = mkDefault 1;
        "vm.dirty_ratio" = mkDefault 5;
        "vm.stat_interval" = mkDefault 120;
        "kernel.watchdog" = mkDefault 0;
      };
    };
  };
}
