# SPICE, and the memory of Looking Glass.
{ config, lib, ... }:

let
  inherit (lib) mkIf mkMerge optionalString;
  cfg = config.vfio;
  inherit (cfg) lookingGlass;
  owner = optionalString (lookingGlass.user != null) ''OWNER="${lookingGlass.user}", '';
in
{
  _class = "nixos";

  config = mkIf cfg.enable (mkMerge [
    (mkIf cfg.spice.enable {
      # Users at the screen may hand USB devices to guests.
      virtualisation.spiceUSBRedirection.enable = true;
    })

    # The plan has them on the host, where they have nothing to talk to; webdavd also brings davfs2.
    (mkIf cfg.spice.guestDaemons {
      services.spice-vdagentd.enable = true;
      services.spice-webdavd.enable = true;
    })

    (mkIf (lookingGlass.enable && lookingGlass.kvmfr) {
      services.udev.extraRules = ''
        SUBSYSTEM=="kvmfr", ${owner}GROUP="${lookingGlass.group}", MODE="${lookingGlass.mode}"
      '';
    })

    # The hook makes the file when a guest starts, in the size that its XML asks for, and removes it afterwards. Of the plan's
    # rules "d /dev/shm" is none of ours: systemd mounts it. "d /dev/hugepages" is covered by the mount there, see virtualization.nix.
    (mkIf (lookingGlass.enable && !lookingGlass.kvmfr && !cfg.hook.enable && lookingGlass.user != null) {
      systemd.tmpfiles.settings."10-looking-glass"."/dev/shm/looking-glass".f = {
        inherit (lookingGlass) user group mode;
      };
    })
  ]);
}
