# libvirtd, QEMU, huge pages and the guests' definitions.
{
  config,
  lib,
  pkgs,
  ...
}:

let
  inherit (lib)
    concatMapStringsSep
    mapAttrs'
    mkDefault
    mkIf
    nameValuePair
    optional
    optionalAttrs
    optionals
    optionalString
    ;

  cfg = config.vfio;
  inherit (cfg) hugepages vm;
  inherit (config.virtualisation) libvirtd;

  guests = lib.filterAttrs (_: guest: guest.xmlPath != null) (
    cfg.vms // optionalAttrs (vm.xmlPath != null) { ${vm.name} = { inherit (vm) autostart xmlPath; }; }
  );

  # systemd mounts /dev/hugepages with the default size; libvirt needs a mount for each size that guests ask for.
  mounts = [
    {
      where = "/dev/hugepages";
      pageSize = "2M";
    }
  ]
  ++ optional (hugepages.size == "1G") {
    where = "/dev/hugepages1G";
    pageSize = "1G";
  };

  quoted = concatMapStringsSep ", " (s: ''"${s}"'');
  # libvirt's own list, to which nothing can be added, and what passed-through devices and Looking Glass need. The plan's
  # /dev/kqemu is long gone.
  deviceNodes = [
    "/dev/null"
    "/dev/full"
    "/dev/zero"
    "/dev/random"
    "/dev/urandom"
    "/dev/ptmx"
    "/dev/kvm"
    "/dev/userfaultfd"
    "/dev/rtc"
    "/dev/hpet"
    "/dev/sev"
    "/dev/vfio/vfio"
  ]
  ++ optional (cfg.lookingGlass.enable && cfg.lookingGlass.kvmfr) "/dev/kvmfr0";
in
{
  _class = "nixos";

  config = mkIf cfg.enable {
    assertions = [
      {
        assertion = vm.xmlPath != null -> !(cfg.vms ? ${vm.name});
        message = "The guest ${vm.name} is in vfio.vm and in vfio.vms: leave one of the two.";
      }
    ];
    warnings = optional (!cfg.hook.enable && hugepages.allocate == "at-start") (
      ''vfio.hook.enable is off, so nobody allocates huge pages when a guest starts: set vfio.hugepages.allocate = "at-boot".''
    );

    programs.virt-manager.enable = mkDefault true;

    virtualisation.libvirtd = {
      enable = true;
      # The default saves the guest's memory to disk, which no guest with a passed-through device lets itself.
      onShutdown = mkDefault "shutdown";
      qemu = {
        package = mkDefault pkgs.qemu_kvm;
        runAsRoot = mkDefault true;
        swtpm.enable = mkDefault true;
        # `namespaces` is NixOS' own default, which a text of ours would replace. Left out of what the plan has: memory_backing_dir,
        # which is for guests without huge pages and must not lie on hugetlbfs; cgroup_controllers = [ "memory" ], which takes
        # cpuset and devices away from libvirt.
        verbatimConfig = ''
          namespaces = []
        ''
        # Without runAsRoot NixOS names a user of its own.
        + optionalString (libvirtd.qemu.runAsRoot && cfg.user != null) ''
          user = "${cfg.user}"
          group = "kvm"
        ''
        + ''
          cgroup_device_acl = [ ${quoted deviceNodes} ]
          hugetlbfs_mount = [ ${quoted (map (m: m.where) mounts)} ]
          bridge_helper = "/run/wrappers/bin/qemu-bridge-helper"
        '';
      };
    };

    # Not in `fileSystems`, as the plan has it: NixOS links systemd's own dev-hugepages.mount into /etc, where it comes before
    # whatever is made from fstab. This becomes a drop-in of it.
    systemd.mounts = map (m: {
      inherit (m) where;
      what = "hugetlbfs";
      type = "hugetlbfs";
      options = "mode=1770,gid=${toString config.ids.gids.kvm},pagesize=${m.pageSize},nosuid,nodev";
      before = [ "libvirtd.service" ];
      wantedBy = [ "libvirtd.service" ];
    }) mounts;

    # Each guest's definition, whenever the one in the configuration has changed. libvirt keeps the guest by its uuid, and
    # with it firmware variables and TPM; nothing is ever undefined.
    systemd.services = mapAttrs' (
      name: guest:
      nameValuePair "define-${name}-vm" {
        description = "Definition of the guest ${name}";
        requires = [ "libvirtd.service" ];
        after = [ "libvirtd.service" ];
        wantedBy = [ "multi-user.target" ];
        path = [
          libvirtd.package
          pkgs.xmlstarlet
        ];
        environment = {
          GUEST = name;
          XML = "${guest.xmlPath}";
          AUTOSTART = if guest.autostart then "yes" else "no";
        };
        serviceConfig = {
          Type = "oneshot";
          RemainAfterExit = true;
          StateDirectory = "qemu-hook/guests";
          StateDirectoryMode = "0700";
        };
        script = builtins.readFile ./scripts/define-vm.sh;
      }
    ) guests;
  };
}
