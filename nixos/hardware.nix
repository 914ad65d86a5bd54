# Kernel parameters, modules, and the card at boot.
{
  config,
  lib,
  pkgs,
  ...
}:

let
  inherit (lib)
    concatMapStrings
    hasPrefix
    mkBefore
    mkIf
    mkMerge
    optional
    optionals
    unique
    ;

  cfg = config.vfio;
  inherit (cfg) devices hugepages;
  kvmfr = cfg.lookingGlass.enable && cfg.lookingGlass.kvmfr;

  ids = optional (devices.gpu != null) devices.gpu ++ optional (devices.audio != null) devices.audio ++ devices.extra;
  byId = devices.bindAtBoot && ids != [ ];
  byAddress = devices.bindAtBoot && ids == [ ];

  vfioModules = [
    "vfio_pci"
    "vfio"
    "vfio_iommu_type1"
  ];

  # Drivers that would take a card, its sound or its i2c function before vfio-pci has it.
  drivers = [
    "amdgpu"
    "i2c_nvidia_gpu"
    "i915"
    "nouveau"
    "nvidia"
    "radeon"
    "snd_hda_intel"
    "xe"
  ];

  # What names in services.xserver.videoDrivers begin with, by PCI vendor.
  vendorDrivers = {
    "10de" = [
      "nouveau"
      "nvidia"
    ];
    "1002" = [
      "amdgpu"
      "ati"
      "radeon"
    ];
    "8086" = [ "intel" ];
  };
  videoDriversOf =
    vendor:
    builtins.filter (
      driver: builtins.any (prefix: hasPrefix prefix driver) (vendorDrivers.${vendor} or [ ])
    ) config.services.xserver.videoDrivers;
  vendorOf = builtins.substring 0 4;

  sameVendor = if devices.gpu == null then [ ] else videoDriversOf (vendorOf devices.gpu);
  # A second card may be among these, or only something of the first's. Intel makes too much else.
  extraCards = builtins.filter (
    id: vendorOf id != "8086" && videoDriversOf (vendorOf id) != [ ]
  ) devices.extra;
  extraDrivers = unique (builtins.concatMap (id: videoDriversOf (vendorOf id)) extraCards);
  anyVendor = builtins.concatMap videoDriversOf (builtins.attrNames vendorDrivers);

  # The rule as it is shipped for every distribution has one line to fill in.
  ruleLine = ''#SUBSYSTEM=="drm|graphics|i2c-dev", KERNELS=="0000:08:00.0", ENV{ID_SEAT}="seat-qemu-hook"'' + "\n";
  hideRules = builtins.replaceStrings [ ruleLine ] [
    (concatMapStrings (
      address:
      builtins.replaceStrings [ "#" "0000:08:00.0" ] [ "" address ] ruleLine
    ) devices.addresses)
  ] (builtins.readFile ../dist/72-qemu-hook-gpu.rules);
in
{
  _class = "nixos";

  config = mkIf cfg.enable (mkMerge [
    {
      assertions = [
        {
          assertion = cfg.cpu != null;
          message = ''vfio.cpu is not set: say "intel" or "amd".'';
        }
        {
          assertion = devices.bindAtBoot -> ids != [ ] || devices.addresses != [ ];
          message = "vfio.devices.bindAtBoot is on, but vfio.devices names no function: set gpu and audio, or addresses.";
        }
        {
          assertion = devices.hideFromDesktop -> devices.addresses != [ ];
          message = "vfio.devices.hideFromDesktop is on, but vfio.devices.addresses is empty: desktops are kept off by address.";
        }
        {
          assertion = devices.bindAtBoot && !devices.allowSameVendor -> sameVendor == [ ];
          message =
            "vfio.devices.bindAtBoot takes ${toString devices.gpu} from the host, whose services.xserver.videoDrivers has "
            + "${toString sameVendor}: the desktop would not start. Remove that driver, or set vfio.devices.allowSameVendor if another card is meant.";
        }
        {
          assertion = cfg.blacklistNvidia -> videoDriversOf "10de" == [ ];
          message =
            "vfio.blacklistNvidia is on, and services.xserver.videoDrivers has ${toString (videoDriversOf "10de")}: the desktop would "
            + "not start. Remove that driver, or set vfio.blacklistNvidia = false.";
        }
      ];

      warnings =
        optional (byAddress && !devices.allowSameVendor && anyVendor != [ ]) (
          "vfio.devices.bindAtBoot is on, services.xserver.videoDrivers has ${toString anyVendor}, and vfio.devices.addresses do not tell "
          + "the vendor: if the card is the one that the driver is for, the desktop will not start. Set vfio.devices.allowSameVendor if "
          + "another card is meant."
        )
        ++ optional (byId && !devices.allowSameVendor && sameVendor == [ ] && extraCards != [ ]) (
          "vfio.devices.bindAtBoot is on, and vfio.devices.extra has ${toString extraCards}, of the vendor for whom "
          + "services.xserver.videoDrivers has ${toString extraDrivers}: if one of them is a graphics card that the driver is for, the "
          + "desktop will not start. Set vfio.devices.allowSameVendor if not."
        )
        ++ optional (byId && devices.allowSameVendor) (
          "vfio.devices.bindAtBoot binds by ids: two cards of one model have one id, and both would be gone from the host. Use "
          + "vfio.devices.addresses alone, without gpu, audio and extra."
        );

      boot.kernelParams =
        # Each device gets its own address space, without which none can be given to a guest. "pt": what the host keeps is mapped
        # one to one and pays nothing for it. AMD's IOMMU is on unless it is switched off.
        optionals cfg.kernelParams.iommu (optional (cfg.cpu == "intel") "intel_iommu=on" ++ [ "iommu=pt" ])
        # vfio-pci takes what has these ids as soon as it is loaded.
        ++ optional byId "vfio-pci.ids=${builtins.concatStringsSep "," ids}"
        # Guests ask for pages of this size when they name none. Transparent huge pages would compete with them.
        ++ optionals cfg.kernelParams.memory [
          "default_hugepagesz=${hugepages.size}"
          "hugepagesz=${hugepages.size}"
          "transparent_hugepage=never"
        ]
        # As long as memory is in one piece.
        ++ optionals (hugepages.allocate == "at-boot") (
          optional (!cfg.kernelParams.memory) "hugepagesz=${hugepages.size}"
          ++ [ "hugepages=${toString hugepages.count}" ]
        )
        # The plan's "fastboot" and "rd.timeout=0" are no parameters of anything in NixOS.
        ++ optionals cfg.kernelParams.quiet [
          "quiet"
          "rd.systemd.show_status=false"
        ]
        # Callbacks run in threads (rcuo…), which the hook's step `kernel` moves off guests' CPUs, and nobody waits long for the end
        # of a grace period. The plan's rcu_boost is no parameter; rcutree.rcu_idle_gp_delay went with Linux 5.17.
        ++ optionals cfg.kernelParams.rcu [
          "rcu_nocbs=all"
          "rcupdate.rcu_expedited=1"
        ]
        # Windows and its drivers read registers that KVM does not know; an error there is a blue screen.
        ++ optionals cfg.kernelParams.kvm [
          "kvm.ignore_msrs=1"
          "kvm.report_ignored_msrs=0"
        ]
        ++ optionals cfg.kernelParams.acpi [
          "acpi_osi=Linux"
          "radeon.modeset=0"
        ]
        ++ cfg.kernelParams.extra;

      # libvirt says that a host cannot pass devices through as long as /dev/vfio/vfio is not there.
      boot.kernelModules =
        vfioModules
        ++ optional kvmfr "kvmfr"
        ++ optional (cfg.cpu != null) "kvm-${cfg.cpu}"
        ++ [ "kvm" ]
        ++ optional (devices.hostDriver != null) devices.hostDriver;
    }

    (mkIf kvmfr {
      boot.extraModulePackages = [ config.boot.kernelPackages.kvmfr ];
      boot.extraModprobeConfig = "options kvmfr static_size_mb=${toString cfg.lookingGlass.sizeMB}\n";
    })

    (mkIf (devices.hostDriver != null) {
      boot.initrd.kernelModules = [ devices.hostDriver ];
    })

    (mkIf byId {
      # Before the host's own driver, which the plan had first: whoever is loaded first has the card.
      boot.initrd.kernelModules = mkBefore vfioModules;
      boot.extraModprobeConfig = concatMapStrings (driver: "softdep ${driver} pre: vfio-pci\n") drivers;
    })

    (mkIf byAddress {
      systemd.services.qemu-hook-bind = {
        description = "Put the guests' cards on vfio";
        before = [ "display-manager.service" ];
        # vfio-pci is there by then, and udev at work on the drivers.
        after = [
          "systemd-modules-load.service"
          "systemd-udevd.service"
        ];
        wantedBy = [ "multi-user.target" ];
        # Not at a switch: a guest may have the card, or the desktop.
        restartIfChanged = false;
        serviceConfig = {
          Type = "oneshot";
          RemainAfterExit = true;
          # A oneshot has no limit of its own, and the desktop waits for this one.
          TimeoutStartSec = "5min";
          ExecStart = "${lib.getExe cfg.hook.package} bind ${builtins.concatStringsSep " " devices.addresses}";
        };
      };
    })

    (mkIf devices.hideFromDesktop {
      # Not services.udev.extraRules: those are number 99, and what is set here counts in 73-seat-late.rules.
      services.udev.packages = [
        (pkgs.writeTextDir "lib/udev/rules.d/72-qemu-hook-gpu.rules" hideRules)
      ];
    })

    (mkIf cfg.blacklistNvidia {
      boot.blacklistedKernelModules = [
        "nouveau"
        "nvidia"
        "nvidia_drm"
        "nvidia_modeset"
        "nvidia_uvm"
      ];
      # The kernel's own nouveau may be asked for by others than udev.
      boot.extraModprobeConfig = "options nouveau modeset=0\n";
    })
  ]);
}
