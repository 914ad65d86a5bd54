# qemu-hook itself: its way to libvirtd, its configuration, its figures for Prometheus, and the unit that tidies up.
{
  config,
  lib,
  pkgs,
  ...
}:

let
  inherit (lib)
    findFirst
    getExe
    hasPrefix
    mkDefault
    mkIf
    mkMerge
    optionalString
    removePrefix
    ;

  cfg = config.vfio;
  inherit (cfg) hook lookingGlass;

  # libvirtd runs this path, which each generation of the system points at its own program. The link in libvirt's directory
  # never changes, so a switch need not restart libvirtd-config to bring a new program (NixOS/nixpkgs#377609), which would
  # take libvirtd down with it; and /etc keeps the program from the garbage collector, which a link in /var/lib does not.
  program = "/etc/qemu-hook/hook";
  linkName = "50-qemu-hook";

  # Checked where it is built, unless that machine cannot run the host's programs.
  configFile =
    let
      written = (pkgs.formats.toml { }).generate "qemu-hook.toml" hook.settings;
    in
    pkgs.runCommand "config.toml" { } (
      optionalString (pkgs.stdenv.buildPlatform.canExecute pkgs.stdenv.hostPlatform) ''
        ${getExe hook.package} check --config-only --config ${written}
      ''
      + ''
        cp ${written} $out
      ''
    );

  textfileFlag = "--collector.textfile.directory=";
  nodeExporter = config.services.prometheus.exporters.node;
  textfile = findFirst (hasPrefix textfileFlag) null nodeExporter.extraFlags;
  metricsFile = hook.settings.metrics.textfile or null;
in
{
  _class = "nixos";

  config = mkIf (cfg.enable && hook.enable) {
    warnings =
      lib.optional
        (config.virtualisation.libvirtd.hooks.qemu ? prepare || config.virtualisation.libvirtd.hooks.qemu ? release)
        (
          "virtualisation.libvirtd.hooks.qemu has an entry named after an operation: the names are only file names, and each "
          + "file is run at every operation of every guest. qemu-hook needs none of them."
        );

    environment.systemPackages = [ hook.package ];

    environment.etc = {
      "qemu-hook/hook".source = getExe hook.package;
      "qemu-hook/config.toml" = mkIf (hook.settings != { }) { source = configFile; };
    };

    virtualisation.libvirtd.hooks.qemu.${linkName} = program;

    # What the module knows that the hook would otherwise have to find out.
    vfio.hook.settings = mkMerge [
      (mkIf lookingGlass.enable {
        looking_glass = {
          # TOML has no null; without the key the hook finds out who sits at the screen.
          user = mkIf (lookingGlass.user != null) (mkDefault lookingGlass.user);
          group = mkDefault lookingGlass.group;
          mode = mkDefault lookingGlass.mode;
        };
      })
      (mkIf (nodeExporter.enable && textfile != null) {
        metrics.textfile = mkDefault "${removePrefix textfileFlag textfile}/qemu-hook.prom";
      })
    ];

    systemd.services = {
      # libvirtd-config makes the link, but only before libvirtd starts; this makes it when a switch brings the hook to a daemon
      # that runs. One that found no hook at its start looks again when it gets SIGHUP; its guests run on.
      qemu-hook-link = {
        description = "Show libvirtd its hook";
        after = [
          "libvirtd-config.service"
          "libvirtd.service"
        ];
        wantedBy = [ "multi-user.target" ];
        serviceConfig = {
          Type = "oneshot";
          RemainAfterExit = true;
        };
        script = ''
          dir=/var/lib/libvirt/hooks/qemu.d
          if [ "$(readlink "$dir/${linkName}")" = ${program} ]; then
            exit 0
          fi
          mkdir -p "$dir"
          ln -sfn ${program} "$dir/${linkName}"
          if systemctl --quiet is-active libvirtd.service; then
            systemctl kill --kill-whom=main --signal=HUP libvirtd.service
          fi
        '';
      };

      # The same as dist/qemu-hook-recover.service, where each line has its reason; a test compares the two.
      qemu-hook-recover = {
        description = "Give back what libvirt guests have left behind";
        documentation = [ "man:qemu-hook(8)" ];
        before = [
          "libvirtd.service"
          "virtqemud.service"
        ];
        after = [
          "systemd-modules-load.service"
          "systemd-udevd.service"
          "dbus.socket"
        ];
        wantedBy = [
          "libvirtd.service"
          "virtqemud.service"
        ];
        startLimitIntervalSec = 0;
        serviceConfig = {
          Type = "oneshot";
          ExecStart = "${getExe hook.package} recover";
          TimeoutStartSec = "15min";
          RuntimeDirectory = "qemu-hook";
          RuntimeDirectoryMode = "0700";
          RuntimeDirectoryPreserve = "yes";
          CapabilityBoundingSet = [
            "CAP_SYS_ADMIN CAP_SYS_MODULE CAP_SYS_NICE CAP_SYS_PTRACE CAP_KILL"
            "CAP_CHOWN CAP_FOWNER CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH CAP_MKNOD"
          ];
          NoNewPrivileges = "yes";
          ProtectSystem = "strict";
          # And where the figures go, which it puts right after a reboot.
          ReadWritePaths = [
            "/dev/shm"
            "/run/systemd"
          ]
          ++ lib.optional (metricsFile != null) "-${dirOf metricsFile}";
          ProtectHome = "yes";
          PrivateTmp = "yes";
          ProtectClock = "yes";
          ProtectHostname = "yes";
          ProtectKernelLogs = "yes";
          LockPersonality = "yes";
          RestrictNamespaces = "yes";
          RestrictRealtime = "yes";
          RestrictSUIDSGID = "yes";
          RestrictAddressFamilies = "AF_UNIX";
          IPAddressDeny = "any";
          SystemCallArchitectures = "native";
          SystemCallFilter = "@system-service @module";
          SystemCallErrorNumber = "EPERM";
          UMask = "0077";
        };
      };
    };
  };
}
