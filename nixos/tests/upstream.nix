# The options of NixOS that the module sets or reads, with the types they have upstream. manifest.json, made from this, is
# compared with the real options where NIXPKGS names them.
{ lib, ... }:

let
  inherit (lib) mkOption types;

  opt =
    type: default:
    mkOption {
      inherit type default;
      description = "upstream";
    };
  required =
    type:
    mkOption {
      inherit type;
      description = "upstream";
    };
  group = options: required (types.submodule { inherit options; });
  set = options: opt (types.attrsOf (types.submodule { inherit options; })) { };
  list = options: opt (types.listOf (types.submodule { inherit options; })) [ ];

  strings = opt (types.listOf types.str) [ ];
  switch = opt types.bool false;
  text = opt types.lines "";

  unitName = types.strMatching "[a-zA-Z0-9@%:_.\\-]+[.](service|socket|device|mount|automount|swap|target|path|timer|scope|slice)";
  units = opt (types.listOf unitName) [ ];
  primitive = types.oneOf [
    types.bool
    types.int
    types.str
    types.path
    types.package
  ];
  unitSettings = opt (types.attrsOf (types.either primitive (types.listOf primitive))) { };

  unit = {
    after = units;
    before = units;
    requires = units;
    wants = units;
    wantedBy = units;
    description = opt types.singleLineStr "";
    documentation = strings;
    unitConfig = unitSettings;
    startLimitIntervalSec = opt (types.nullOr types.int) null;
  };

  sudoRules = list {
    users = opt (types.listOf (types.either types.str types.int)) [ ];
    groups = opt (types.listOf (types.either types.str types.int)) [ ];
    host = opt types.str "ALL";
    runAs = opt types.str "ALL:ALL";
    commands = required (
      types.listOf (
        types.either types.str (
          types.submodule {
            options = {
              command = required types.str;
              options = opt (types.listOf (
                types.enum [
                  "NOPASSWD"
                  "PASSWD"
                  "NOEXEC"
                  "EXEC"
                  "SETENV"
                  "NOSETENV"
                  "LOG_INPUT"
                  "NOLOG_INPUT"
                  "LOG_OUTPUT"
                  "NOLOG_OUTPUT"
                  "MAIL"
                  "NOMAIL"
                  "FOLLOW"
                  "NOFOLLOW"
                  "INTERCEPT"
                  "NOINTERCEPT"
                ]
              )) [ ];
            };
          }
        )
      )
    );
  };
in
{
  options = {
    assertions = opt (types.listOf types.unspecified) [ ];
    warnings = strings;
    ids = opt types.raw { gids.kvm = 302; };

    boot = {
      blacklistedKernelModules = strings;
      extraModprobeConfig = text;
      extraModulePackages = opt (types.listOf types.package) [ ];
      initrd.kernelModules = strings;
      kernelModules = strings;
      kernelPackages = required types.raw;
      kernelParams = opt (types.listOf (types.strMatching ''([^"[:space:]]|"[^"]*")+'')) [ ];
    };

    environment = {
      etc = set {
        source = required types.path;
        mode = opt types.str "symlink";
      };
      sessionVariables = opt (types.attrsOf (
        types.oneOf [
          types.int
          types.str
          types.path
        ]
      )) { };
      systemPackages = opt (types.listOf types.package) [ ];
    };

    networking = {
      bridges = set {
        interfaces = required (types.listOf types.str);
        rstp = switch;
      };
      firewall = {
        allowedUDPPorts = opt (types.listOf types.port) [ ];
        checkReversePath = opt (types.either types.bool (
          types.enum [
            "strict"
            "loose"
          ]
        )) true;
        interfaces = set { allowedUDPPorts = opt (types.listOf types.port) [ ]; };
      };
      interfaces = set {
        useDHCP = opt (types.nullOr types.bool) null;
        ipv4.addresses = opt (types.listOf types.raw) [ ];
        ipv6.addresses = opt (types.listOf types.raw) [ ];
      };
      networkmanager.unmanaged = strings;
    };

    programs.virt-manager.enable = switch;

    security = {
      polkit.enable = switch;
      sudo.extraRules = sudoRules;
      sudo-rs.extraRules = sudoRules;
    };

    services = {
      prometheus.exporters.node = {
        enable = switch;
        extraFlags = strings;
      };
      spice-vdagentd.enable = switch;
      spice-webdavd.enable = switch;
      udev = {
        extraRules = text;
        packages = opt (types.listOf types.path) [ ];
      };
      xserver.videoDrivers = opt (types.listOf types.str) [
        "modesetting"
        "fbdev"
      ];
    };

    systemd = {
      mounts = list (
        unit
        // {
          what = required types.str;
          where = required types.str;
          type = opt types.str "";
          options = opt types.commas "";
        }
      );
      services = set (
        unit
        // {
          environment = opt (types.attrsOf (
            types.nullOr (
              types.oneOf [
                types.str
                types.path
                types.package
              ]
            )
          )) { };
          path = opt (types.listOf (types.either types.package types.str)) [ ];
          restartIfChanged = opt types.bool true;
          script = text;
          serviceConfig = unitSettings;
        }
      );
      tmpfiles.settings = opt (types.attrsOf (
        types.attrsOf (
          types.attrsOf (
            types.submodule {
              options = {
                age = opt types.str "-";
                argument = opt types.str "";
                group = opt types.str "-";
                mode = opt types.str "-";
                user = opt types.str "-";
              };
            }
          )
        )
      )) { };
    };

    users = {
      groups = set {
        gid = opt (types.nullOr types.int) null;
        members = strings;
      };
      users = set {
        extraGroups = strings;
        isNormalUser = switch;
        isSystemUser = switch;
      };
    };

    virtualisation = {
      libvirtd = {
        allowedBridges = opt (types.listOf types.str) [ "virbr0" ];
        enable = switch;
        hooks = opt (types.submodule {
          options =
            lib.genAttrs
              [
                "daemon"
                "libxl"
                "lxc"
                "network"
                "qemu"
              ]
              (_: opt (types.attrsOf types.path) { });
        }) { };
        onShutdown = opt (types.enum [
          "shutdown"
          "suspend"
        ]) "suspend";
        package = required types.package;
        qemu = group {
          package = required types.package;
          runAsRoot = opt types.bool true;
          swtpm = opt (types.submodule { options.enable = switch; }) { };
          verbatimConfig = opt types.lines ''
            namespaces = []
          '';
        };
      };
      spiceUSBRedirection.enable = switch;
    };
  };

  # What upstream has from elsewhere.
  config.virtualisation.libvirtd.package = lib.mkDefault (import ./pkgs.nix { inherit lib; }).libvirt;
}
