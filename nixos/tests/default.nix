# All that is asked of the module, in one evaluation.
{
  lib ? import ./lib,
}:

let
  inherit (builtins) mapAttrs;

  evaluate = host: import ./eval.nix { inherit lib host; };
  dump = host: import ./dump.nix { inherit lib; inherit (evaluate host) config; };
in
{
  hosts = mapAttrs (_: dump) (import ./hosts);
  cases = mapAttrs (_: host: {
    assertions = map (a: a.message) (
      builtins.filter (a: !a.assertion) (evaluate host).config.assertions
    );
    inherit ((evaluate host).config) warnings;
  }) (import ./cases.nix);
  options = lib.optionList (evaluate { }).options.vfio;
  upstream = lib.optionList (lib.evalModules { modules = [ ./upstream.nix ]; }).options;
  vm = import ./vm-node.nix { inherit lib; };
  flake = import ./flake.nix { inherit lib; };
  package = removeAttrs ((import ./pkgs.nix { inherit lib; }).callPackage ../package.nix { }) [
    "drvPath"
    "outPath"
    "src"
    "type"
  ];
}
