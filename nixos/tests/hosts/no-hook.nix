# The hook off: the module is the rest, and what the hook would do is done at boot.
{
  users.users.dave.isNormalUser = true;
  vfio = {
    enable = true;
    user = "dave";
    cpu = "intel";
    hook.enable = false;
    hugepages.allocate = "at-boot";
    kernelParams.memory = true;
    lookingGlass = {
      enable = true;
      kvmfr = false;
    };
    spice.guestDaemons = true;
    scripts.sudo = true;
  };
}
