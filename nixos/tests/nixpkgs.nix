# The table on real modules: hosts by name, as tests/dump.nix has them, of what this module sets only; and what tests/upstream.nix
# and tests/pkgs.nix say of upstream, as it is there.
{ nixpkgs }:

let
  inherit (builtins) elem mapAttrs;
  lib = import (nixpkgs + "/lib");
  pkgs = import nixpkgs {
    system = "x86_64-linux";
    config.allowUnfree = true;
    overlays = [ ];
  };
  standIn = import ./lib;
  optionList = import ./option-list.nix { inherit lib; };

  system =
    host:
    import (nixpkgs + "/nixos/lib/eval-config.nix") {
      inherit lib pkgs;
      system = null;
      modules = [
        ../default.nix
        host
        {
          boot.loader.grub.enable = false;
          fileSystems."/" = {
            device = "/dev/vda";
            fsType = "ext4";
          };
          system.stateVersion = lib.trivial.release;
        }
      ];
    };

  fields = [
    "after"
    "before"
    "description"
    "documentation"
    "environment"
    "requires"
    "restartIfChanged"
    "script"
    "serviceConfig"
    "wantedBy"
    "wants"
  ];
  pick = names: lib.filterAttrs (name: _: elem name names);

  dump =
    host: services:
    let
      inherit (system host) config;
      ours = config // {
        environment = config.environment // {
          etc = lib.filterAttrs (name: _: lib.hasPrefix "qemu-hook/" name) config.environment.etc;
          systemPackages = [ ];
        };
        services = config.services // {
          udev = config.services.udev // {
            packages = [ ];
          };
        };
        systemd = config.systemd // {
          mounts = map (pick [
            "before"
            "options"
            "type"
            "wantedBy"
            "what"
            "where"
          ]) config.systemd.mounts;
          services = mapAttrs (_: pick fields) (pick services config.systemd.services);
          tmpfiles = config.systemd.tmpfiles // {
            rules = [ ];
          };
        };
      };
      dumped = import ./dump.nix {
        inherit lib;
        config = ours;
      };
    in
    # Warnings of others' modules are none of ours.
    removeAttrs dumped [
      "fileSystems"
      "scripts"
      "warnings"
    ];

  table = mapAttrs (_: host: builtins.attrNames (import ./eval.nix { inherit host; }).config.systemd.services) (
    import ./hosts
  );
  declared = (system (import ./hosts).minimal).options;
  stubs = (import ./default.nix { }).upstream;
  # The option at a path, or the one in whose submodule the path goes on.
  descend =
    names: tree:
    if names == [ ] || lib.isOption tree then
      tree
    else if tree ? ${builtins.head names} then
      descend (builtins.tail names) tree.${builtins.head names}
    else
      null;
in
{
  # With the real lib over the stand-ins everything is as with ours.
  realLib = removeAttrs (import ./default.nix { inherit lib; }) [
    "options"
    "upstream"
  ];
  parity = {
    real = import ./parity.nix { inherit lib; };
    ours = import ./parity.nix { lib = standIn; };
  };
  hosts = mapAttrs (name: dump (import ./hosts).${name}) table;
  # null for an option that is not there.
  options = map (
    stub:
    let
      found = descend (lib.splitString "." stub.name) declared;
    in
    {
      inherit (stub) name type;
      real =
        if found == null then
          null
        else if lib.isOption found && lib.showOption found.loc == stub.name then
          found.type.description
        else
          (lib.findFirst (o: o.name == stub.name) { type = null; } (optionList found)).type;
    }
  ) stubs;
  packages = builtins.filter (name: !(pkgs ? ${name})) (
    builtins.attrNames (lib.filterAttrs (_: lib.isDerivation) (import ./pkgs.nix { lib = standIn; }))
  );
}
