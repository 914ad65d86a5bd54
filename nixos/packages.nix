# Tools for guests. libvirt and QEMU come with virtualisation.libvirtd, virt-manager with its own option.
#
# Of the plan's list are left out: cpuset, which cannot work with cgroup v2; spice-vdagent, which is for guests; spice-protocol,
# which has headers only.
{
  config,
  lib,
  pkgs,
  ...
}:

let
  inherit (lib) mkIf optionals;
  cfg = config.vfio;
in
{
  _class = "nixos";

  config = mkIf cfg.enable {
    environment.systemPackages =
      optionals cfg.packages.enable [
        pkgs.inotify-tools
        pkgs.kmod
        pkgs.ntfs3g
        pkgs.virtio-win
        pkgs.win-spice
      ]
      ++ optionals (cfg.packages.enable || cfg.spice.enable) [
        pkgs.spice-gtk
        pkgs.virt-viewer
      ]
      ++ optionals cfg.lookingGlass.enable [ pkgs.looking-glass-client ]
      ++ optionals (cfg.packages.enable || cfg.rdp.host != null) [ pkgs.freerdp ];
  };
}
