# The options' reference by nixpkgs' own means: an option without a description is an error.
{ lib, pkgs }:

let
  evaluated = lib.evalModules {
    modules = [
      ../default.nix
      {
        # What the module sets elsewhere is not declared here.
        _module = {
          check = false;
          args = { inherit pkgs; };
        };
      }
    ];
  };
in
(pkgs.nixosOptionsDoc {
  options = { inherit (evaluated.options) vfio; };
  warningsAreErrors = true;
}).optionsCommonMark
