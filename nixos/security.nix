# Who may do what.
{ config, lib, ... }:

let
  inherit (lib) mkIf optionalAttrs;

  cfg = config.vfio;
  inherit (cfg.devices) addresses;
  user = if cfg.user == null then { } else config.users.users.${cfg.user} or { };
in
{
  _class = "nixos";

  config = mkIf cfg.enable {
    assertions = [
      {
        assertion = cfg.user != null;
        message = "vfio.user is not set: say who manages the guests.";
      }
      {
        assertion = cfg.user != null -> user.isNormalUser || user.isSystemUser;
        message = ''vfio.user is "${toString cfg.user}", a user that this host does not declare: set users.users.${toString cfg.user}.isNormalUser.'';
      }
    ];

    # By extraGroups alone: in users.groups.<name>.members, too, the user would be there twice.
    users.users = mkIf (cfg.user != null) { ${toString cfg.user}.extraGroups = cfg.groups; };

    # libvirtd asks it whether a member of libvirtd may manage guests.
    security.polkit.enable = true;

    environment.sessionVariables =
      optionalAttrs (addresses != [ ]) { VFIO_GPU_ID = builtins.head addresses; }
      // optionalAttrs (builtins.length addresses > 1) { VFIO_AUDIO_ID = builtins.elemAt addresses 1; };
  };
}
