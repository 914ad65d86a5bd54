# The guests' bridge into the host's network, and its firewall.
{ config, lib, ... }:

let
  inherit (lib) mkDefault mkIf mkMerge;

  cfg = config.vfio;
  inherit (cfg.network) bridge interface;
  # DNS and DHCP, for guests that the host serves.
  ports = [
    53
    67
  ];
in
{
  _class = "nixos";

  config = mkIf cfg.enable (mkMerge [
    (mkIf cfg.network.enable {
      assertions = [
        {
          assertion = interface != null;
          message = "vfio.network.enable is on, but vfio.network.interface is not set: say which interface the bridge ${bridge} is to have.";
        }
      ];

      networking = {
        bridges.${bridge}.interfaces = lib.optional (interface != null) interface;
        interfaces = mkMerge [
          { ${bridge}.useDHCP = mkDefault true; }
          # Without this dhcpcd asks for a second address on the bridge's port.
          (mkIf (interface != null) { ${toString interface}.useDHCP = mkDefault false; })
        ];
        networkmanager.unmanaged = [ bridge ] ++ lib.optional (interface != null) interface;
      };

      # Who may put guests on it without being root.
      virtualisation.libvirtd.allowedBridges = [
        "virbr0"
        bridge
      ];
    })

    # The plan opens the ports on the whole host, where only the bridge needs them, and drops the check. NixOS has one check for all
    # interfaces, so the loose one, too, is for the whole host.
    (mkIf (cfg.network.enable && cfg.network.firewall && !cfg.openFirewall) {
      networking.firewall = {
        interfaces.${bridge}.allowedUDPPorts = ports;
        checkReversePath = mkDefault "loose";
      };
    })

    (mkIf cfg.openFirewall {
      networking.firewall = {
        allowedUDPPorts = ports;
        checkReversePath = mkDefault false;
      };
    })
  ]);
}
