# The table: hosts by name.
{
  amd-two = ./amd-two.nix;
  disabled = ./disabled.nix;
  minimal = ./minimal.nix;
  no-hook = ./no-hook.nix;
  no-owner = ./no-owner.nix;
  plan = ./plan.nix;
  # Without a word about the module: what `disabled` has to be equal to.
  without = {
    users.users.richen.isNormalUser = true;
  };
}
