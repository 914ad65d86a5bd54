# Looking Glass' memory for whoever sits at the screen.
{
  users.users.erin.isNormalUser = true;
  vfio = {
    enable = true;
    user = "erin";
    cpu = "amd";
    lookingGlass = {
      enable = true;
      user = null;
    };
  };
}
