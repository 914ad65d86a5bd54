# Questions about merging, priorities, types and errors, which tests/lib answers as nixpkgs' lib does: a value, or "error".
{ lib }:

let
  inherit (lib) mkOption types;

  answer =
    value:
    let
      result = builtins.tryEval (builtins.deepSeq value value);
    in
    if result.success then result.value else "error";
  evaluate = modules: (lib.evalModules { inherit modules; }).config;
  x = type: { options.x = mkOption { inherit type; }; };
  given = type: values: answer (evaluate ([ (x type) ] ++ map (value: { config.x = value; }) values)).x;
in
{
  unknown = answer (evaluate [
    (x types.int)
    { config = { x = 1; y = 2; }; }
  ]).x;
  unknownButOff = answer (evaluate [
    (x types.int)
    { config = { x = 1; y = lib.mkIf false 2; }; }
  ]).x;
  mixed = answer (evaluate [ { options.x = mkOption { type = types.int; }; x = 1; } ]).x;
  importsBeside = answer (evaluate [ { imports = [ (x types.int) ]; x = 1; } ]).x;
  importedTwice =
    answer
      (evaluate [
        ../default.nix
        ../default.nix
        {
          _module.check = false;
          _module.args.pkgs = import ./pkgs.nix { inherit lib; };
        }
      ]).vfio.enable;
  unset = given types.int [ ];
  emptyList = given (types.listOf types.int) [ ];
  emptyAttrs = given (types.attrsOf types.int) [ ];
  emptyNull = given (types.nullOr types.int) [ ];

  conflict = given types.int [
    1
    2
  ];
  same = given types.int [
    1
    1
  ];
  default = given types.int [
    (lib.mkDefault 1)
    2
  ];
  defaults = given types.int [
    (lib.mkDefault 1)
    (lib.mkDefault 2)
  ];
  force = given types.int [
    (lib.mkForce 1)
    2
  ];
  ifFalse = given types.int [
    (lib.mkIf false 1)
    2
  ];
  ifTrue = given types.int [ (lib.mkIf true 1) ];
  merge = given (types.listOf types.int) [ (lib.mkMerge [ [ 1 ] (lib.mkIf true [ 2 ]) ]) ];
  listOrder = given (types.listOf types.int) [
    [ 1 ]
    [ 2 ]
    [ 3 ]
  ];
  before = given (types.listOf types.int) [
    [ 1 ]
    (lib.mkBefore [ 2 ])
    [ 3 ]
  ];
  after = given (types.listOf types.int) [
    [ 1 ]
    (lib.mkAfter [ 2 ])
    [ 3 ]
  ];
  ifOver = answer (evaluate [
    (x types.int)
    (lib.mkIf true { x = 1; })
    (lib.mkIf false { x = 2; })
  ]).x;
  mergeOver = answer (evaluate [
    (x types.int)
    { config = lib.mkMerge [ { x = lib.mkDefault 1; } { x = 2; } ]; }
  ]).x;
  apply = answer (evaluate [
    { options.x = mkOption { type = types.int; apply = v: v + 1; }; }
    { x = 1; }
  ]).x;
  optionDefault = answer (evaluate [
    { options.x = mkOption { type = types.int; default = 1; }; }
    { x = lib.mkDefault 2; }
  ]).x;

  enumGood = given (types.enum [ "a" "b" ]) [ "b" ];
  enumBad = given (types.enum [ "a" "b" ]) [ "c" ];
  matchGood = given (types.strMatching "[0-9a-f]{4}:[0-9a-f]{4}") [ "10de:2782" ];
  matchBad = given (types.strMatching "[0-9a-f]{4}:[0-9a-f]{4}") [ "10DE:2782" ];
  matchInList = given (types.listOf (types.strMatching "[0-9a-f]{4}:[0-9a-f]{4}")) [ [ "10de:2782" "x" ] ];
  null = given (types.nullOr types.int) [ null ];
  notNull = given (types.nullOr types.int) [ 3 ];
  badNull = given (types.nullOr types.int) [ "3" ];
  bothNull = given (types.nullOr types.int) [
    3
    null
  ];
  positive = given types.ints.positive [ 0 ];
  between = given (types.ints.between 1 10) [ 11 ];
  port = given types.port [ 70000 ];
  floatForInt = given types.int [ 1.5 ];
  stringForInt = given types.int [ "1" ];
  singleLine = given types.singleLineStr [ "a\nb\n" ];
  nonEmpty = given types.nonEmptyStr [ " " ];
  relativePath = given types.path [ "a/b" ];
  absolutePath = given types.path [ "/a/b" ];
  lines = given types.lines [
    "a"
    "b"
  ];
  commas = given types.commas [
    "a"
    "b"
  ];
  either = given (types.either types.bool (types.enum [ "loose" ])) [ "loose" ];
  eitherBad = given (types.either types.bool (types.enum [ "loose" ])) [ "x" ];
  oneOf = given (types.oneOf [ types.int types.str types.bool ]) [ true ];
  coerced = given (types.coercedTo types.int toString types.str) [ 5 ];
  anything = given types.anything [
    { a.b = 1; }
    { a.c = lib.mkDefault 2; }
    { a.c = 3; }
  ];
  anythingConflict = given types.anything [
    { a = 1; }
    { a = 2; }
  ];

  attrsTwice = given (types.attrsOf types.path) [
    { a = "/p"; }
    { a = "/q"; }
  ];
  attrsIf = given (types.attrsOf types.int) [
    {
      a = lib.mkIf false 1;
      b = lib.mkIf true 2;
      c = lib.mkDefault 3;
    }
  ];
  listIf = given (types.listOf types.int) [ [ (lib.mkIf false 1) 2 (lib.mkIf true 3) ] ];
  submodule = given (types.submodule {
    options.a = mkOption {
      type = types.int;
      default = 1;
    };
    options.b = mkOption { type = types.str; };
  }) [ { b = "q"; } ];
  submoduleUnknown = given (types.submodule { options.a = mkOption { type = types.int; }; }) [ { b = 1; } ];
  submoduleName = given (types.attrsOf (types.submodule (
    { name, ... }:
    {
      options.n = mkOption {
        type = types.str;
        default = name;
      };
    }
  ))) [ { foo = { }; } ];
  submoduleConfig = given (types.submodule (
    { config, ... }:
    {
      options.a = mkOption {
        type = types.int;
        default = 1;
      };
      options.b = mkOption {
        type = types.int;
        default = config.a + 1;
      };
    }
  )) [ { a = 5; } ];
  submoduleMerge = given (types.submodule {
    options.a = mkOption { type = types.listOf types.int; };
  }) [
    { a = [ 1 ]; }
    { a = [ 2 ]; }
  ];
  submoduleList = given (types.listOf (types.submodule { options.a = mkOption { type = types.int; }; })) [
    [
      { a = 1; }
      { a = 2; }
    ]
  ];
}
