# For those without flakes: nix-build -A qemu-hook. A host imports ./nixos itself.
{
  pkgs ? import <nixpkgs> { },
}:

{
  qemu-hook = pkgs.callPackage ./nixos/package.nix { };
  nixosModules.default = ./nixos;
}
