# Commands for people, thin over qemu-hook and virsh, and who may run them as root.
{
  config,
  lib,
  pkgs,
  ...
}:

let
  inherit (lib) mkIf optionalAttrs;

  cfg = config.vfio;
  inherit (cfg) lookingGlass rdp;

  script =
    name: runtimeInputs: runtimeEnv:
    pkgs.writeShellApplication {
      inherit name runtimeInputs runtimeEnv;
      text = builtins.readFile (./scripts + "/${name}.sh");
    };

  guest.VFIO_GUEST = cfg.vm.name;
  libvirt = config.virtualisation.libvirtd.package;

  # What these do takes root.
  rootScripts = {
    vfio = script "vfio" [ cfg.hook.package pkgs.pciutils ] {
      VFIO_ADDRESSES = builtins.concatStringsSep " " cfg.devices.addresses;
    };
    start-vfio = script "start-vfio" [ cfg.hook.package ] guest;
    stop-vfio = script "stop-vfio" [ cfg.hook.package ] guest;
  };

  scripts =
    optionalAttrs cfg.hook.enable rootScripts
    // {
      vm = script "vm" [ libvirt ] guest;
    }
    // optionalAttrs lookingGlass.enable {
      lg = script "lg" [ libvirt pkgs.looking-glass-client ] (
        guest
        // {
          VFIO_SHM = if lookingGlass.kvmfr then "/dev/kvmfr0" else "/dev/shm/looking-glass";
          VFIO_CAPTURE_KEY = cfg.scripts.captureKey;
        }
      );
    }
    // optionalAttrs (rdp.host != null) {
      rdp = script "rdp" [ pkgs.freerdp ] {
        VFIO_RDP_HOST = rdp.host;
        VFIO_RDP_USER = toString rdp.user;
        # One a line.
        VFIO_RDP_OPTIONS = builtins.concatStringsSep "\n" rdp.options;
      };
    };

  # By store path, so that no other program can take the name. Each takes a guest's name or a word of its own and nothing else;
  # the plan's rule has the other scripts, too, which need no root, and is for all of wheel.
  rules = [
    {
      users = [ (toString cfg.user) ];
      commands = lib.mapAttrsToList (name: package: {
        command = "${package}/bin/${name}";
        options = [ "NOPASSWD" ];
      }) rootScripts;
    }
  ];
  withSudo = cfg.scripts.sudo && cfg.hook.enable && cfg.user != null;
in
{
  _class = "nixos";

  config = mkIf (cfg.enable && cfg.scripts.enable) {
    assertions = [
      {
        assertion = !(lib.any (o: builtins.match "[-/]+(p|gp|pth|password)(:.*)?" o != null) rdp.options);
        message = "vfio.rdp.options has a password in it, which everybody could read in the store and in the list of processes: rdp asks for it.";
      }
    ];

    environment.systemPackages = builtins.attrValues scripts;
    security.sudo.extraRules = mkIf withSudo rules;
    security.sudo-rs.extraRules = mkIf withSudo rules;
  };
}
