# Mistakes, and things to be warned of, each on a host that is right otherwise.
let
  host = vfio: {
    users.users.alice.isNormalUser = true;
    vfio = {
      enable = true;
      user = "alice";
      cpu = "intel";
    }
    // vfio;
  };
in
{
  no-user = {
    vfio = {
      enable = true;
      cpu = "intel";
    };
  };
  unknown-user = host { user = "bob"; };
  no-cpu = host { cpu = null; };
  bind-nothing = host { devices.bindAtBoot = true; };
  hide-nothing = host { devices.hideFromDesktop = true; };
  same-vendor = host {
    devices = {
      gpu = "10de:2782";
      bindAtBoot = true;
    };
  } // {
    services.xserver.videoDrivers = [
      "modesetting"
      "nvidia"
    ];
  };
  same-vendor-allowed = host {
    devices = {
      gpu = "10de:2782";
      bindAtBoot = true;
      allowSameVendor = true;
    };
  } // {
    services.xserver.videoDrivers = [ "nvidia" ];
  };
  same-vendor-extra = host {
    devices = {
      gpu = "10de:2782";
      extra = [ "1002:73a6" ];
      bindAtBoot = true;
    };
  } // {
    services.xserver.videoDrivers = [ "amdgpu" ];
  };
  same-vendor-network = host {
    devices = {
      gpu = "10de:2782";
      extra = [ "8086:15f3" ];
      bindAtBoot = true;
    };
  } // {
    services.xserver.videoDrivers = [ "intel" ];
  };
  same-vendor-usb = host {
    devices = {
      gpu = "1002:73a5";
      extra = [ "1002:73a6" ];
      bindAtBoot = true;
    };
  } // {
    services.xserver.videoDrivers = [ "amdgpu" ];
  };
  other-vendor = host {
    devices = {
      gpu = "10de:2782";
      bindAtBoot = true;
    };
  } // {
    services.xserver.videoDrivers = [ "amdgpu" ];
  };
  vendor-unknown = host {
    devices = {
      addresses = [ "0000:08:00.0" ];
      bindAtBoot = true;
    };
  } // {
    services.xserver.videoDrivers = [
      "modesetting"
      "nvidiaLegacy470"
    ];
  };
  vendor-unknown-allowed = host {
    devices = {
      addresses = [ "0000:08:00.0" ];
      bindAtBoot = true;
      allowSameVendor = true;
    };
  } // {
    services.xserver.videoDrivers = [ "nvidia" ];
  };
  blacklisted-driver = host { blacklistNvidia = true; } // {
    services.xserver.videoDrivers = [ "nouveau" ];
  };
  no-interface = host { network.enable = true; };
  guest-twice = host {
    vm.xmlPath = ../win11.xml;
    vms.win11.xmlPath = ../win11.xml;
  };
  bad-name = host { vms."a b".xmlPath = ../win11.xml; };
  password = host {
    rdp = {
      host = "win11";
      options = [ "/p:secret" ];
    };
  };
  no-allocation = host { hook.enable = false; };
  named-after-operation = host { } // {
    virtualisation.libvirtd.hooks.qemu.prepare = "/bin/prepare";
  };
}
