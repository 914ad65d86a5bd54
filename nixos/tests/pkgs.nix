# Packages that are names only, and builders that keep what they are given to build. Only what the module may use is here, so
# a misspelt package or argument is an error.
{ lib }:

let
  package =
    name: attributes:
    derivation {
      inherit name;
      system = "x86_64-linux";
      builder = "/bin/sh";
    }
    // {
      inherit name;
      meta.mainProgram = name;
    }
    // attributes;

  pkgs =
    lib.genAttrs [
      "cpuset"
      "deadnix"
      "freerdp"
      "go"
      "gopls"
      "inotify-tools"
      "installShellFiles"
      "kmod"
      "libvirt"
      "looking-glass-client"
      "nixfmt"
      "nixfmt-tree"
      "ntfs3g"
      "pciutils"
      "qemu"
      "qemu_kvm"
      "shellcheck"
      "spice-gtk"
      "spice-protocol"
      "spice-vdagent"
      "statix"
      "versionCheckHook"
      "virt-manager"
      "virt-viewer"
      "virtio-win"
      "win-spice"
      "xmlstarlet"
    ] (name: package name { })
    // {
      inherit lib;

      # The package is all that it was asked to be.
      buildGoModule =
        f:
        let
          attributes = f attributes;
        in
        package attributes.pname attributes;

      callPackage =
        file: overrides:
        let
          f = import file;
        in
        f (builtins.intersectAttrs (builtins.functionArgs f) pkgs // overrides);

      formats.toml =
        { }:
        {
          # What TOML can say: no null.
          type =
            let
              value =
                lib.types.oneOf [
                  lib.types.bool
                  lib.types.int
                  lib.types.float
                  lib.types.str
                  lib.types.path
                  (lib.types.attrsOf value)
                  (lib.types.listOf value)
                ]
                // {
                  description = "TOML value";
                };
            in
            value;
          generate = name: value: package name { inherit value; };
        };

      linuxPackages.kvmfr = package "kvmfr" { };

      mkShell = { packages }: package "nix-shell" { names = map (p: p.name) packages; };

      nixosOptionsDoc =
        { options, warningsAreErrors }:
        {
          optionsCommonMark = builtins.deepSeq (import ./option-list.nix { inherit lib; } options) (
            package "options.md" { inherit warningsAreErrors; }
          );
        };

      runCommand =
        name: env: text:
        package name { inherit env text; };

      stdenv = {
        buildPlatform.canExecute = _: true;
        hostPlatform.isx86_64 = true;
      };

      testers.runNixOSTest =
        file:
        let
          test = import file { inherit lib pkgs; };
        in
        package "vm-test-run-${test.name}" { inherit test; };

      writeShellApplication =
        {
          name,
          text,
          runtimeInputs,
          runtimeEnv,
        }:
        package name { inherit runtimeEnv runtimeInputs text; };

      writeShellScriptBin = name: text: package name { inherit text; };
      writeText = name: text: package name { inherit text; };
      writeTextDir = path: text: package (baseNameOf path) { inherit path text; };
    };
in
pkgs
