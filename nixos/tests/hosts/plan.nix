# The plan's own host, in full.
{
  users.users.richen.isNormalUser = true;
  vfio = {
    enable = true;
    profile = "plan";
    user = "richen";
    cpu = "intel";
    devices = {
      gpu = "10de:2782";
      audio = "10de:22bc";
      addresses = [
        "0000:08:00.0"
        "0000:08:00.1"
      ];
      hostDriver = "amdgpu";
    };
    network.interface = "enp7s0";
    hook.settings.cpus.host = "0-3,16";
    vm.xmlPath = ../../win11.xml;
    rdp.host = "win11";
  };
}
