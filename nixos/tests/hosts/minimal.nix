# As little as can be said.
{
  users.users.alice.isNormalUser = true;
  vfio = {
    enable = true;
    user = "alice";
    cpu = "intel";
  };
}
