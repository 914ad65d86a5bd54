# Everything is said, and nothing switched on: nothing may be set.
let
  plan = import ./plan.nix;
in
plan // { vfio = plan.vfio // { enable = false; }; }
