# The plan's snippets as they stand, group by group: what the module is measured by. The scripts and the definition of the
# guest, of which the plan shows names only, are names here.
{
  config,
  lib,
  pkgs,
  ...
}:

let
  scripts = lib.genAttrs [
    "lg"
    "rdp"
    "start-vfio"
    "stop-vfio"
    "vfio"
    "vm"
  ] (name: pkgs.writeShellScriptBin name "");
in
{
  # a. Scripts
  environment.systemPackages = builtins.attrValues scripts ++ [
    pkgs.qemu
    pkgs.virt-manager
    pkgs.virt-viewer
    pkgs.libvirt
    pkgs.spice-gtk
    pkgs.spice-protocol
    pkgs.spice-vdagent
    pkgs.looking-glass-client
    pkgs.virtio-win
    pkgs.win-spice
    pkgs.freerdp
    pkgs.ntfs3g
    pkgs.cpuset
    pkgs.kmod
    pkgs.inotify-tools
  ];
  environment.sessionVariables = {
    VFIO_GPU_ID = "0000:08:00.0";
    VFIO_AUDIO_ID = "0000:08:00.1";
  };
  security.sudo.extraRules = [
    {
      groups = [ "wheel" ];
      commands =
        map
          (name: {
            command = "${scripts.${name}}/bin/${name}";
            options = [ "NOPASSWD" ];
          })
          [
            "vfio"
            "rdp"
            "vm"
            "lg"
          ];
    }
  ];

  # b. Hardware
  boot.kernelParams = [
    "default_hugepagesz=2M"
    "hugepagesz=2M"
    "transparent_hugepage=never"
    "fastboot"
    "quiet"
    "rd.timeout=0"
    "rd.systemd.show_status=false"
    "rcu_nocbs=all"
    "rcu_boost=1"
    "rcu_expedited=1"
    "rcutree.rcu_idle_gp_delay=1"
    "intel_iommu=on"
    "iommu=pt"
    "vfio-pci.ids=10de:2782,10de:22bc"
    "kvm.ignore_msrs=1"
    "kvm.report_ignored_msrs=0"
    "acpi_osi=Linux"
    "radeon.modeset=0"
  ];
  boot.kernelModules = [
    "vfio_pci"
    "vfio"
    "vfio_iommu_type1"
    "kvmfr"
    "kvm-intel"
    "kvm"
    "amdgpu"
  ];
  boot.initrd.kernelModules = [
    "amdgpu"
    "vfio_pci"
    "vfio"
    "vfio_iommu_type1"
  ];
  boot.extraModulePackages = [ config.boot.kernelPackages.kvmfr ];
  boot.blacklistedKernelModules = [
    "nouveau"
    "nvidia"
    "nvidia_drm"
    "nvidia_modeset"
    "nvidia_uvm"
  ];
  boot.extraModprobeConfig = ''
    options kvmfr static_size_mb=64
    blacklist nouveau
    options nouveau modeset=0
  '';

  # c. Networking
  networking.interfaces.br0.useDHCP = true;
  networking.bridges.br0.interfaces = [ "enp7s0" ];
  networking.firewall = {
    allowedUDPPorts = [
      53
      67
    ];
    checkReversePath = false;
  };
  networking.networkmanager.unmanaged = [
    "br0"
    "enp7s0"
  ];

  # d. Security
  users.users.richen.extraGroups = lib.mkAfter [
    "wheel"
    "networkmanager"
    "video"
    "libvirtd"
    "kvm"
    "qemu-libvirtd"
  ];
  users.groups.libvirtd.members = [ "richen" ];
  users.groups.kvm.members = [ "richen" ];
  security.polkit.enable = true;

  # e. Virtualization
  programs.virt-manager.enable = true;
  virtualisation.libvirtd.enable = true;
  virtualisation.libvirtd.qemu.swtpm.enable = true;
  virtualisation.libvirtd.qemu.runAsRoot = true;
  virtualisation.libvirtd.qemu.package = pkgs.qemu_kvm;
  virtualisation.libvirtd.qemu.verbatimConfig = ''
    user = "richen"
    group = "kvm"
    cgroup_device_acl = [
      "/dev/null", "/dev/full", "/dev/zero",
      "/dev/random", "/dev/urandom",
      "/dev/ptmx", "/dev/kvm", "/dev/kqemu",
      "/dev/rtc","/dev/hpet", "/dev/sev",
      "/dev/kvmfr0",
      "/dev/vfio/vfio"
    ]
    hugetlbfs_mount = "/dev/hugepages"
    bridge_helper = "/run/wrappers/bin/qemu-bridge-helper"
    memory_backing_dir = "/dev/hugepages"
    cgroup_controllers = [ "memory" ]
  '';
  virtualisation.libvirtd.hooks.qemu = { };
  virtualisation.spiceUSBRedirection.enable = true;
  fileSystems."/dev/hugepages" = {
    device = "hugetlbfs";
    fsType = "hugetlbfs";
    options = [
      "mode=01770"
      "gid=kvm"
    ];
  };

  # f. Services
  services.spice-vdagentd.enable = true;
  services.spice-webdavd.enable = true;
  services.udev.extraRules = ''
    SUBSYSTEM=="kvmfr", OWNER="richen", GROUP="kvm", MODE="0660"
  '';
  systemd.tmpfiles.rules = [
    "d /dev/hugepages 1770 root kvm -"
    "d /dev/shm 1777 root root -"
    "f /dev/shm/looking-glass 0660 richen kvm -"
  ];
  systemd.services.define-win11-vm = {
    description = "Define Windows 11 VM";
    after = [ "libvirtd.service" ];
    requires = [ "libvirtd.service" ];
    wantedBy = [ "multi-user.target" ];
    serviceConfig = {
      Type = "oneshot";
      RemainAfterExit = true;
      User = "root";
    };
    script = "";
  };
}
