# The flake's outputs with stand-ins for its inputs: names, and what they come to.
{ lib }:

let
  pkgs = import ./pkgs.nix { inherit lib; };
  self = { };
  outputs = (import ../../flake.nix).outputs {
    inherit self;
    nixpkgs = {
      inherit lib;
      legacyPackages = lib.genAttrs [
        "x86_64-linux"
        "aarch64-linux"
      ] (_: pkgs);
    };
  };
  shown = v: if lib.isDerivation v then "<${v.name}>" else v;
  systems = builtins.mapAttrs (_: builtins.mapAttrs (_: shown));
in
{
  inherit (import ../../flake.nix) description inputs;
  names = builtins.attrNames outputs;
  module = builtins.pathExists (outputs.nixosModules.default + "/default.nix");
  overlay = shown (outputs.overlays.default pkgs { }).qemu-hook;
  packages = systems outputs.packages;
  checks = systems outputs.checks;
  devShells = systems outputs.devShells;
  apps = builtins.mapAttrs (
    _: a: a // { default = a.default // { program = baseNameOf a.default.program; }; }
  ) outputs.apps;
  formatter = builtins.mapAttrs (_: shown) outputs.formatter;
  # Without flakes.
  plain = shown (import ../../default.nix { inherit pkgs; }).qemu-hook;
}
