# A host for virtual machines with passed-through graphics cards: `vfio.enable = true`.
#
# This file declares the options. What they do stands in one file for each concern; README.md says why, and OPTIONS.md
# lists the options.
{
  config,
  lib,
  pkgs,
  ...
}:

let
  inherit (lib)
    literalExpression
    mkEnableOption
    mkOption
    types
    ;

  cfg = config.vfio;
  tomlFormat = pkgs.formats.toml { };

  # As `lspci -n` and `lspci -D` print them.
  deviceId = types.strMatching "[0-9a-f]{4}:[0-9a-f]{4}" // {
    description = "PCI vendor and device id, such as 10de:2782";
  };
  pciAddress = types.strMatching "[0-9a-f]{4,8}:[0-9a-f]{2}:[01][0-9a-f]\\.[0-7]" // {
    description = "PCI address with its domain, such as 0000:08:00.0";
  };
  interfaceName = types.strMatching "[^/[:space:]]{1,15}" // {
    description = "name of a network interface";
  };
  # The name becomes part of a unit's name and of sudo's rules.
  guestName = types.strMatching "[A-Za-z0-9_][A-Za-z0-9_.-]*" // {
    description = "name of a guest, of letters, digits, \"_\", \".\" and \"-\"";
  };
  userName = types.strMatching "[A-Za-z_][A-Za-z0-9_.-]*" // {
    description = "name of a user or a group";
  };

  # As mkEnableOption, with a sentence of its own.
  mkSwitch =
    description:
    mkOption {
      type = types.bool;
      default = false;
      example = true;
      inherit description;
    };

  guestOptions = {
    xmlPath = mkOption {
      type = types.nullOr types.path;
      default = null;
      example = literalExpression "./win11.xml";
      description = ''
        The domain XML that libvirt is to have for this guest; null to leave the definition to you. A path is copied to
        the store, which everybody can read: name a file outside of it, as a string, if the XML has secrets in it.
      '';
    };
    autostart = mkSwitch "Whether libvirtd starts the guest when the host boots.";
  };
in
{
  _class = "nixos";

  imports = [
    ./hardware.nix
    ./hook.nix
    ./networking.nix
    ./packages.nix
    ./profile.nix
    ./scripts.nix
    ./security.nix
    ./services.nix
    ./virtualization.nix
  ];

  options.vfio = {
    enable = mkEnableOption "a host for virtual machines with passed-through graphics cards";

    profile = mkOption {
      type = types.enum [
        "default"
        "plan"
      ];
      default = "default";
      description = ''
        What is on where you say nothing. "default" leaves off whatever can lock you out or changes how the host feels: the
        bridge, binding at boot, the blacklist, kernel parameters other than the IOMMU's, SPICE. "plan" has all of it on, each
        still to be switched off alone.
      '';
    };

    user = mkOption {
      type = types.nullOr userName;
      default = null;
      example = "alice";
      description = ''
        The user who manages the guests, as whom QEMU runs, and who owns Looking Glass' memory. Has to be set, and declared
        in {option}`users.users`.
      '';
    };

    groups = mkOption {
      type = types.listOf userName;
      default = [
        "libvirtd"
        "kvm"
      ];
      description = "Groups that the user is put into.";
    };

    cpu = mkOption {
      type = types.nullOr (
        types.enum [
          "intel"
          "amd"
        ]
      );
      default = null;
      example = "intel";
      description = "Who made the processor: that decides about the IOMMU's parameter and KVM's module. Has to be set.";
    };

    devices = {
      gpu = mkOption {
        type = types.nullOr deviceId;
        default = null;
        example = "10de:2782";
        description = "Vendor and device id of the graphics card, from `lspci -nn`.";
      };
      audio = mkOption {
        type = types.nullOr deviceId;
        default = null;
        example = "10de:22bc";
        description = "Vendor and device id of the card's sound function.";
      };
      extra = mkOption {
        type = types.listOf deviceId;
        default = [ ];
        example = [ "1b73:1100" ];
        description = "Ids of further functions, such as the card's USB controller.";
      };
      addresses = mkOption {
        type = types.listOf pciAddress;
        default = [ ];
        example = [
          "0000:08:00.0"
          "0000:08:00.1"
        ];
        description = ''
          Addresses of the same functions, from `lspci -D`, the display first and its sound second. Two equal cards have the
          same ids; an address tells them apart. They are exported as VFIO_GPU_ID and VFIO_AUDIO_ID, and are what the script
          {command}`vfio` binds.
        '';
      };
      bindAtBoot = mkSwitch ''
        Whether the functions are on vfio from the start of the host: by their ids from the kernel's start, or by their
        addresses before the desktop starts if there are no ids. Otherwise the hook binds them when a guest starts, and the host
        has its card in between.
      '';
      hideFromDesktop = mkSwitch ''
        Whether desktops are kept off the functions in {option}`vfio.devices.addresses`, so that nobody has the card open when a
        guest wants it.
      '';
      hostDriver = mkOption {
        type = types.nullOr types.str;
        default = null;
        example = "amdgpu";
        description = "Module of the card that the host keeps. It is loaded early, after vfio.";
      };
      allowSameVendor = mkSwitch ''
        Whether {option}`vfio.devices.bindAtBoot` may go together with a driver of the same vendor in
        {option}`services.xserver.videoDrivers`. That is right if the host has a second card of that vendor: of
        another model, if they are bound by ids.
      '';
    };

    blacklistNvidia = mkSwitch "Whether the host never loads nouveau and NVIDIA's modules.";

    kernelParams = {
      iommu = mkOption {
        type = types.bool;
        default = true;
        description = "Whether the IOMMU is switched on, with direct mappings for what the host keeps.";
      };
      memory = mkSwitch ''
        Whether the default size of huge pages is {option}`vfio.hugepages.size`, and transparent huge pages are off.
      '';
      quiet = mkSwitch "Whether the boot says as little as possible.";
      rcu = mkSwitch ''
        Whether RCU's callbacks run in threads, which can be moved off a guest's CPUs, and grace periods are expedited.
      '';
      kvm = mkSwitch "Whether KVM ignores, without a word, model-specific registers that it does not know.";
      acpi = mkSwitch ''
        Whether the firmware is told that it runs Linux, and the old radeon driver sets no modes.
      '';
      extra = mkOption {
        type = types.listOf types.str;
        default = [ ];
        example = [ "pcie_acs_override=downstream" ];
        description = "Further kernel parameters.";
      };
    };

    hugepages = {
      size = mkOption {
        type = types.enum [
          "2M"
          "1G"
        ];
        default = "2M";
        description = "Size of the pages. The guest's XML has to ask for pages of that size.";
      };
      count = mkOption {
        type = types.ints.positive;
        default = if cfg.hugepages.size == "1G" then 36 else 18432;
        defaultText = literalExpression ''if config.vfio.hugepages.size == "1G" then 36 else 18432'';
        description = ''
          How many pages are allocated at boot, if they are: by default 36 GiB. What is allocated at boot is gone for the host, which has to
          have enough memory besides to start.
        '';
      };
      allocate = mkOption {
        type = types.enum [
          "at-start"
          "at-boot"
        ];
        default = "at-start";
        description = ''
          When pages are allocated: by the hook at each guest's start, as many as its XML asks for, and given back after it; or at boot,
          for good, as is best for pages of 1G.
        '';
      };
    };

    network = {
      enable = mkSwitch "Whether guests get a bridge into the host's network. The host's own address moves to the bridge.";
      bridge = mkOption {
        type = interfaceName;
        default = "br0";
        description = "Name of the bridge.";
      };
      interface = mkOption {
        type = types.nullOr interfaceName;
        default = null;
        example = "enp7s0";
        description = "The interface that is put on the bridge. It must have no address of its own.";
      };
      firewall = mkOption {
        type = types.bool;
        default = true;
        description = ''
          Whether DNS and DHCP (UDP 53 and 67) are let in on the bridge, and reverse path filtering is loose: that is one setting for
          the whole host.
        '';
      };
    };

    openFirewall = mkSwitch ''
      Whether UDP 53 and 67 are let in on every interface and reverse path filtering is off, instead of what
      {option}`vfio.network.firewall` does.
    '';

    vm = {
      name = mkOption {
        type = guestName;
        default = "win11";
        description = "Name of the guest that the scripts mean if none is given.";
      };
    }
    // guestOptions;

    vms = mkOption {
      type = types.attrsOf (types.submodule { options = guestOptions; });
      default = { };
      example = literalExpression ''{ work = { xmlPath = ./work.xml; autostart = true; }; }'';
      description = "Further guests, by name.";
    };

    lookingGlass = {
      enable = mkEnableOption "Looking Glass, which shows a guest's screen in a window";
      kvmfr = mkOption {
        type = types.bool;
        default = true;
        description = "Whether its memory is a kvmfr device, /dev/kvmfr0, rather than a file in /dev/shm.";
      };
      sizeMB = mkOption {
        type = types.enum [
          16
          32
          64
          128
          256
          512
        ];
        default = 64;
        description = "Size of kvmfr's memory in MiB: 32 for 1920×1080, 64 for 2560×1440, 128 for 3840×2160.";
      };
      user = mkOption {
        type = types.nullOr userName;
        default = cfg.user;
        defaultText = literalExpression "config.vfio.user";
        description = ''
          Owner of the memory; null for whoever sits at the screen when the guest starts, or for root if it is a kvmfr device, which its
          group can use.
        '';
      };
      group = mkOption {
        type = userName;
        default = "kvm";
        description = "Group of the memory.";
      };
      mode = mkOption {
        type = types.strMatching "0?[0-7]{3}";
        default = "0660";
        description = "Permissions of the memory.";
      };
    };

    hook = {
      enable = mkOption {
        type = types.bool;
        default = true;
        description = "Whether libvirtd runs qemu-hook at the events of its guests.";
      };
      package = mkOption {
        type = types.package;
        default = pkgs.callPackage ./package.nix { };
        defaultText = literalExpression "pkgs.callPackage ./package.nix { }";
        description = "The qemu-hook package to use.";
      };
      settings = mkOption {
        inherit (tomlFormat) type;
        default = { };
        example = literalExpression ''
          {
            cpus.host = "0-3,16";
            cpus.governor = "performance";
            tunables."vm.stat_interval" = 120;
          }
        '';
        description = ''
          /etc/qemu-hook/config.toml, which the program's README describes key by key. It is checked when the system is built.
        '';
      };
    };

    scripts = {
      enable = mkOption {
        type = types.bool;
        default = true;
        description = "Whether the scripts {command}`vfio`, {command}`vm`, {command}`start-vfio` and their like are installed.";
      };
      sudo = mkSwitch ''
        Whether the user may run {command}`vfio`, {command}`start-vfio` and {command}`stop-vfio` as root without a password.
      '';
      captureKey = mkOption {
        type = types.str;
        default = "KEY_RIGHTCTRL";
        description = "Key by which {command}`lg` takes and gives back keyboard and mouse.";
      };
    };

    spice = {
      enable = mkEnableOption "USB redirection and a viewer for guests with a SPICE display";
      guestDaemons = mkSwitch ''
        Whether spice-vdagentd and spice-webdavd run. They are for guests: only right if this host is one itself.
      '';
    };

    rdp = {
      host = mkOption {
        type = types.nullOr types.str;
        default = null;
        example = "192.168.122.50";
        description = "Name or address of the guest for the script {command}`rdp`; null for no such script.";
      };
      user = mkOption {
        type = types.nullOr types.str;
        default = null;
        example = "alice";
        description = "The user's name inside the guest. The password is asked for.";
      };
      options = mkOption {
        type = types.listOf types.singleLineStr;
        default = [
          "/gfx:AVC444"
          "/sound"
          "/microphone"
          "+clipboard"
        ];
        description = "What xfreerdp is told besides.";
      };
    };

    packages.enable = mkSwitch "Whether tools for guests are installed: virt-manager, viewers, Windows drivers.";
  };
}
