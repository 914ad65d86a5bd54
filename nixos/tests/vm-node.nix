# The VM test's host over the stand-ins, and its script: that the test evaluates is what can be told without KVM.
{ lib }:

let
  pkgs = import ./pkgs.nix { inherit lib; };
  test = import ./vm.nix { inherit lib pkgs; };
  inherit (lib) mkOption types;
  evaluate =
    extra:
    (import ./eval.nix {
      inherit lib;
      host.imports = [
        test.nodes.host
        extra
        # What the framework has.
        {
          options = {
            specialisation = mkOption {
              type = types.attrsOf (types.submodule { options.configuration = mkOption { type = types.raw; }; });
            };
            virtualisation = {
              cores = mkOption { type = types.ints.positive; };
              memorySize = mkOption { type = types.ints.positive; };
              vlans = mkOption { type = types.listOf types.ints.unsigned; };
              qemu.options = mkOption { type = types.listOf types.str; };
            };
          };
        }
      ];
    }).config;
  config = evaluate { };
  special = evaluate { config = config.specialisation.other-hook.configuration; };
in
{
  inherit (test) name testScript;
  host = import ./dump.nix { inherit lib config; };
  # The other hook is in the same place.
  hooks = map (c: {
    inherit (c.virtualisation.libvirtd.hooks) qemu;
    program = builtins.unsafeDiscardStringContext (baseNameOf c.environment.etc."qemu-hook/hook".source);
    text = c.vfio.hook.package.text or null;
  }) [ config special ];
}
