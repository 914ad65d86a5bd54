# All that is asked of the module, in one evaluation.
{
  lib ? import ./lib,
}:

let
  inherit (builtins) mapAttrs;

  optionList = import ./option-list.nix { inherit lib; };
  package = (import ./pkgs.nix { inherit lib; }).callPackage ../package.nix { };
  evaluate = host: import ./eval.nix { inherit lib host; };
  dump = host: import ./dump.nix { inherit lib; inherit (evaluate host) config; };
in
{
  hosts = mapAttrs (_: dump) (import ./hosts);
  # The plan's snippets as they stand, without the module.
  snippets = dump ./plan-snippets.nix;
  cases = mapAttrs (_: host: {
    assertions = map (a: a.message) (
      builtins.filter (a: !a.assertion) (evaluate host).config.assertions
    );
    inherit ((evaluate host).config) warnings;
  }) (import ./cases.nix);
  options = optionList (evaluate { }).options.vfio;
  upstream = optionList (lib.evalModules { modules = [ ./upstream.nix ]; }).options;
  vm = import ./vm-node.nix { inherit lib; };
  flake = import ./flake.nix { inherit lib; };
  package = {
    inherit (package)
      doInstallCheck
      env
      ldflags
      meta
      pname
      postInstall
      subPackages
      vendorHash
      version
      ;
    # Whatever the source names is there.
    source = builtins.seq package.src true;
  };
}
