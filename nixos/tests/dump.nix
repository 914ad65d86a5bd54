# What a host's configuration comes to, as data. Store paths lose their hashes, which are those of stand-ins.
{ lib, config }:

let
  inherit (builtins) isAttrs isList mapAttrs;

  plain =
    value:
    if lib.isDerivation value then
      "<${value.name}>"
    else if isAttrs value then
      mapAttrs (_: plain) value
    else if isList value then
      map plain value
    else if builtins.isPath value then
      "<${baseNameOf value}>"
    else if builtins.isString value then
      withoutHashes value
    else
      value;
  # The context is a fact about the stand-ins, too.
  withoutHashes =
    value:
    let
      parts = builtins.split "/nix/store/[0-9a-z]{32}-([A-Za-z0-9._+-]+)" (
        builtins.unsafeDiscardStringContext value
      );
    in
    lib.concatMapStrings (part: if isList part then "<${builtins.head part}>" else part) parts;

  # What is as it is by default says nothing.
  said = lib.filterAttrs (_: v: v != [ ] && v != { } && v != "" && v != null);
  tidy = v: if isAttrs v then said (mapAttrs (_: tidy) v) else v;

  inherit (config.virtualisation) libvirtd;
  inherit (config.environment) etc systemPackages;
  failed = builtins.filter (a: !a.assertion) config.assertions;
  scripts = builtins.filter (p: p ? runtimeEnv) systemPackages;
in
tidy (plain {
  assertions = map (a: a.message) failed;
  inherit (config) warnings;
  boot = {
    inherit (config.boot)
      blacklistedKernelModules
      extraModprobeConfig
      extraModulePackages
      kernelModules
      kernelParams
      ;
    initrd = config.boot.initrd.kernelModules;
  };
  environment = {
    inherit (config.environment) sessionVariables;
    inherit systemPackages;
    etc = mapAttrs (_: e: e.source) etc;
  };
  networking = {
    inherit (config.networking) networkmanager;
    bridges = mapAttrs (_: b: b.interfaces) config.networking.bridges;
    firewall = {
      inherit (config.networking.firewall) allowedUDPPorts checkReversePath;
      interfaces = mapAttrs (_: i: i.allowedUDPPorts) config.networking.firewall.interfaces;
    };
    dhcp = mapAttrs (_: i: i.useDHCP) config.networking.interfaces;
  };
  virtManager = config.programs.virt-manager.enable;
  polkit = config.security.polkit.enable;
  sudo = config.security.sudo.extraRules;
  sudoRs = config.security.sudo-rs.extraRules;
  spice = {
    vdagentd = config.services.spice-vdagentd.enable;
    webdavd = config.services.spice-webdavd.enable;
    usbRedirection = config.virtualisation.spiceUSBRedirection.enable;
  };
  udev = {
    inherit (config.services.udev) extraRules;
    packages = map (p: { inherit (p) name text; }) config.services.udev.packages;
  };
  systemd = {
    mounts = map said config.systemd.mounts;
    services = mapAttrs (_: said) config.systemd.services;
    tmpfiles = config.systemd.tmpfiles.settings;
  };
  users = mapAttrs (_: u: u.extraGroups) config.users.users;
  libvirtd = lib.optionalAttrs libvirtd.enable {
    inherit (libvirtd) allowedBridges onShutdown;
    inherit (libvirtd.qemu) package runAsRoot verbatimConfig;
    swtpm = libvirtd.qemu.swtpm.enable;
    hooks = libvirtd.hooks.qemu;
  };
  hook = lib.optionalAttrs (etc ? "qemu-hook/config.toml") {
    inherit (config.vfio.hook) settings;
    build = etc."qemu-hook/config.toml".source.text;
  };
  scripts = builtins.listToAttrs (
    map (p: {
      inherit (p) name;
      value = { inherit (p) runtimeEnv runtimeInputs; };
    }) scripts
  );
})
