# The module over the stand-ins, with a host's configuration: { config; options; }.
{
  lib ? import ./lib,
  host,
}:

let
  pkgs = import ./pkgs.nix { inherit lib; };
in
lib.evalModules {
  modules = [
    ./upstream.nix
    ../default.nix
    {
      _file = "pkgs";
      config = {
        _module.args = { inherit pkgs; };
        boot.kernelPackages = pkgs.linuxPackages;
      };
    }
    host
  ];
}
