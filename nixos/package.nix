# qemu-hook, one static program: pkgs.callPackage ./package.nix { }.
{
  lib,
  buildGoModule,
  installShellFiles,
  versionCheckHook,
}:

let
  inherit (lib) fileset;
in
buildGoModule (finalAttrs: {
  pname = "qemu-hook";
  version = "0.1.0";

  # All Go files, as what is vendored follows from them, and what tests read; a change of the documents builds nothing.
  src = fileset.toSource {
    root = ../.;
    fileset = fileset.unions [
      ../go.mod
      ../go.sum
      ../testdata
      ../cmd/qemu-hook/testdata
      (fileset.fileFilter (file: file.hasExt "go") ../.)
      ../docs/qemu-hook.8
      ../dist/completions
      ../dist/qemu-hook-recover.service
    ];
  };

  # nixos/vendor_test.go says what it has to be.
  vendorHash = "sha256-RVJ4U2lLcxYZcpoSVpAKkdvh0ruroBIEFrV+fw6SgCI=";

  subPackages = [ "cmd/qemu-hook" ];
  env.CGO_ENABLED = 0;
  ldflags = [
    "-s"
    "-X main.version=${finalAttrs.version}"
  ];

  nativeBuildInputs = [ installShellFiles ];
  postInstall = ''
    installManPage docs/qemu-hook.8
    installShellCompletion --cmd qemu-hook --bash dist/completions/qemu-hook.bash \
      --fish dist/completions/qemu-hook.fish --zsh dist/completions/_qemu-hook
  '';

  doInstallCheck = true;
  nativeInstallCheckInputs = [ versionCheckHook ];

  meta = {
    description = "Libvirt hook that prepares a host for guests with passed-through GPUs, and gives everything back";
    license = lib.licenses.asl20;
    mainProgram = "qemu-hook";
    platforms = lib.platforms.linux;
  };
})
