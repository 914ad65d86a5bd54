{
  description = "Libvirt hook and NixOS module for guests with passed-through GPUs";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs =
    { self, nixpkgs }:
    let
      inherit (nixpkgs) lib;
      eachSystem =
        f:
        lib.genAttrs [
          "x86_64-linux"
          "aarch64-linux"
        ] (system: f nixpkgs.legacyPackages.${system});
      packageFor = pkgs: pkgs.callPackage ./nixos/package.nix { };
    in
    {
      # The module has its package by itself and needs no overlay.
      nixosModules.default = ./nixos;

      overlays.default = final: _: { qemu-hook = packageFor final; };

      packages = eachSystem (pkgs: {
        default = packageFor pkgs;
        qemu-hook = packageFor pkgs;
        # The options as NixOS' own manual would have them; nixos/OPTIONS.md is the same without nixpkgs.
        options = import ./nixos/tests/options-doc.nix { inherit lib pkgs; };
      });

      apps = eachSystem (pkgs: {
        default = {
          type = "app";
          program = lib.getExe (packageFor pkgs);
          meta.description = "Prepare a host for a guest with a passed-through GPU";
        };
      });

      checks = eachSystem (
        pkgs:
        {
          package = packageFor pkgs;
          options = import ./nixos/tests/options-doc.nix { inherit lib pkgs; };
        }
        # Its virtual IOMMU is Intel's.
        // lib.optionalAttrs pkgs.stdenv.hostPlatform.isx86_64 {
          vm = pkgs.testers.runNixOSTest ./nixos/tests/vm.nix;
        }
      );

      devShells = eachSystem (pkgs: {
        default = pkgs.mkShell {
          packages = [
            pkgs.deadnix
            pkgs.go
            pkgs.gopls
            pkgs.libvirt
            pkgs.nixfmt
            pkgs.shellcheck
            pkgs.statix
          ];
        };
      });

      formatter = eachSystem (pkgs: pkgs.nixfmt-tree);
    };
}
