# What only a running host shows: a machine with a virtual IOMMU, a spare network card in the place of the graphics card, and a
# guest inside it that needs no nesting. It takes KVM: nix build .#checks.x86_64-linux.vm
{ lib, pkgs, ... }:

let
  card = "0000:00:10.0";

  # The machine of a guest, with QEMU's own emulation.
  domain =
    {
      name,
      uuid,
      mebibytes,
    }:
    pkgs.writeText "${name}.xml" ''
      <domain type='qemu'>
        <name>${name}</name>
        <uuid>${uuid}</uuid>
        <memory unit='MiB'>${toString mebibytes}</memory>
        <memoryBacking><hugepages/></memoryBacking>
        <vcpu>1</vcpu>
        <cputune><vcpupin vcpu='0' cpuset='1'/><emulatorpin cpuset='0'/></cputune>
        <os><type arch='x86_64' machine='q35'>hvm</type></os>
        <devices>
          <emulator>/run/libvirt/nix-emulators/qemu-system-x86_64</emulator>
          <hostdev mode='subsystem' type='pci' managed='yes'>
            <source><address domain='0x0000' bus='0x00' slot='0x10' function='0x0'/></source>
          </hostdev>
        </devices>
      </domain>
    '';

  # The same program, which says that it ran.
  otherHook =
    package:
    pkgs.writeShellApplication {
      name = "qemu-hook";
      runtimeInputs = [ ];
      runtimeEnv = { };
      text = ''
        touch /run/other-hook 2>/dev/null || true
        exec ${lib.getExe package} "$@"
      '';
    };
in
{
  name = "qemu-hook";

  nodes.host = {
    imports = [ ../default.nix ];

    users.users.operator.isNormalUser = true;
    users.users.other.isNormalUser = true;

    vfio = {
      enable = true;
      user = "operator";
      cpu = "intel";
      devices.addresses = [ card ];
      network = {
        enable = true;
        interface = "eth1";
      };
      scripts.sudo = true;
      vm = {
        name = "guest";
        xmlPath = domain {
          name = "guest";
          uuid = "b4a5d5a8-4a0d-4c0f-8d6b-0d2f6c7e1a01";
          mebibytes = 64;
        };
      };
      # More than the machine has.
      vms.big.xmlPath = domain {
        name = "big";
        uuid = "b4a5d5a8-4a0d-4c0f-8d6b-0d2f6c7e1a02";
        mebibytes = 65536;
      };
    };

    # The framework gives eth1 an address, which NixOS refuses on a bridge's port.
    networking.interfaces.eth1 = {
      ipv4.addresses = lib.mkForce [ ];
      ipv6.addresses = lib.mkForce [ ];
    };

    virtualisation = {
      cores = 2;
      memorySize = 3072;
      vlans = [ 1 ];
      qemu.options = [
        "-machine q35,kernel-irqchip=split"
        "-device intel-iommu,intremap=on,caching-mode=on"
        "-netdev user,id=spare"
        "-device e1000e,addr=0x10,netdev=spare"
      ];
    };

    specialisation.other-hook.configuration.vfio.hook.package = lib.mkForce (
      otherHook (pkgs.callPackage ../package.nix { })
    );
  };

  testScript = ''
    card = "/sys/bus/pci/devices/${card}"

    def card_driver():
        return host.succeed(f"basename $(readlink {card}/driver)").strip()

    def state():
        """What a guest may change, and has to leave as it was."""
        return host.succeed(
            "cat /proc/sys/vm/nr_hugepages",
            f"cat {card}/driver_override",
            f"basename $(readlink {card}/driver)",
            "systemctl show -p AllowedCPUs system.slice user.slice init.scope",
            "cat /proc/irq/default_smp_affinity",
            "ls /run/qemu-hook | grep -v -x -e lock -e refusals.json || true",
        )

    start_all()
    host.wait_for_unit("multi-user.target")
    host.wait_for_unit("libvirtd.service")

    with subtest("kernel and IOMMU"):
        host.succeed("grep -q intel_iommu=on /proc/cmdline")
        host.succeed("test -n \"$(ls /sys/kernel/iommu_groups)\"")
        assert card_driver() == "e1000e", card_driver()

    with subtest("the mount of huge pages"):
        host.succeed("findmnt -no OPTIONS /dev/hugepages | grep -q mode=1770")
        host.succeed("test $(stat -c %G /dev/hugepages) = kvm")

    with subtest("the bridge"):
        host.succeed("ip -br link show master br0 | grep -q eth1")

    with subtest("the hook is where libvirtd looks"):
        host.succeed("test -x /var/lib/libvirt/hooks/qemu.d/50-qemu-hook")
        host.succeed("qemu-hook check guest")

    with subtest("guests are defined, and stay the same when they are defined again"):
        host.wait_for_unit("define-guest-vm.service")
        uuid = host.succeed("virsh domuuid guest").strip()
        host.succeed("rm /var/lib/qemu-hook/guests/guest.stamp")
        host.succeed("systemctl restart define-guest-vm.service")
        assert host.succeed("virsh domuuid guest").strip() == uuid

    with subtest("who may do what"):
        host.succeed("su - operator -c 'virsh -c qemu:///system list --all' | grep -q guest")
        host.fail("su - other -c 'virsh -c qemu:///system list --all'")
        host.succeed("su - operator -c 'sudo -n vfio status'")
        host.fail("su - operator -c 'sudo -n true'")
        host.fail("su - operator -c 'sudo -n start-vfio --xml=/tmp/x'")

    before = state()

    with subtest("start: the card is the guest's, the host is off its CPU"):
        host.succeed("virsh start guest")
        assert card_driver() == "vfio-pci", card_driver()
        host.succeed("systemctl show -p AllowedCPUs system.slice | grep -q -x AllowedCPUs=0")
        host.succeed("test $(cat /proc/sys/vm/nr_hugepages) -ge 32")
        host.succeed("qemu-hook status | grep -q guest")

    with subtest("a switch brings another hook, and leaves the guest alone"):
        pid = host.succeed("cat /run/libvirt/qemu/guest.pid").strip()
        host.succeed("/run/booted-system/specialisation/other-hook/bin/switch-to-configuration test >&2")
        assert host.succeed("cat /run/libvirt/qemu/guest.pid").strip() == pid
        host.succeed(f"test -d /proc/{pid}")
        host.fail("test -e /run/other-hook")

    with subtest("destroy: the host is as it was, by the other hook"):
        host.succeed("virsh destroy guest")
        host.succeed("test -e /run/other-hook")
        assert state() == before, state()

    with subtest("what cannot be had is refused, and leaves no trace"):
        message = host.fail("virsh start big 2>&1")
        assert "Hook script execution failed" in message, message
        assert state() == before, state()

    with subtest("by hand"):
        host.succeed("su - operator -c start-vfio")
        assert card_driver() == "vfio-pci", card_driver()
        host.succeed("su - operator -c stop-vfio")
        assert state() == before, state()

    with subtest("all of it is there after a reboot"):
        host.shutdown()
        host.start()
        host.wait_for_unit("multi-user.target")
        host.succeed("virsh domuuid guest | grep -q " + uuid)
        host.succeed("test -x /var/lib/libvirt/hooks/qemu.d/50-qemu-hook")
        host.succeed("virsh start guest", "virsh destroy guest")
        assert state() == before, state()
  '';
}
