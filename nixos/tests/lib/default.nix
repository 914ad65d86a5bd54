# A small stand-in for the part of nixpkgs' lib that a NixOS module uses, so that the module can be evaluated where there is
# no nixpkgs. No replacement: ../parity.nix is asked of both, and the table of hosts is evaluated with the real one where
# NIXPKGS names it.
let
  inherit (builtins)
    any
    attrNames
    concatMap
    concatStringsSep
    elem
    filter
    foldl'
    genList
    head
    isAttrs
    isString
    listToAttrs
    map
    match
    replaceStrings
    stringLength
    substring
    tail
    toJSON
    ;

  lib =
    builtins
    // import ./modules.nix lib
    // {
      types = import ./types.nix lib;

      # Lists.
      optional = condition: value: if condition then [ value ] else [ ];
      optionals = condition: values: if condition then values else [ ];
      reverseList = xs: genList (i: builtins.elemAt xs (builtins.length xs - 1 - i)) (builtins.length xs);
      last = xs: builtins.elemAt xs (builtins.length xs - 1);
      unique = foldl' (acc: x: if elem x acc then acc else acc ++ [ x ]) [ ];
      findFirst =
        pred: default: xs:
        let
          found = filter pred xs;
        in
        if found == [ ] then default else head found;

      # Attribute sets.
      optionalAttrs = condition: attrs: if condition then attrs else { };
      nameValuePair = name: value: { inherit name value; };
      mapAttrs' = f: attrs: listToAttrs (lib.mapAttrsToList f attrs);
      mapAttrsToList = f: attrs: map (name: f name attrs.${name}) (attrNames attrs);
      filterAttrs =
        pred: attrs:
        listToAttrs (
          concatMap (name: lib.optional (pred name attrs.${name}) (lib.nameValuePair name attrs.${name})) (
            attrNames attrs
          )
        );
      genAttrs = names: f: listToAttrs (map (name: lib.nameValuePair name (f name)) names);
      attrByPath =
        path: default: attrs:
        if path == [ ] then
          attrs
        else if isAttrs attrs && attrs ? ${head path} then
          lib.attrByPath (tail path) default attrs.${head path}
        else
          default;

      # Strings.
      optionalString = condition: string: if condition then string else "";
      concatStrings = concatStringsSep "";
      concatMapStrings = f: xs: concatStringsSep "" (map f xs);
      concatMapStringsSep =
        sep: f: xs:
        concatStringsSep sep (map f xs);
      hasPrefix = prefix: string: substring 0 (stringLength prefix) string == prefix;
      hasSuffix =
        suffix: string:
        let
          rest = stringLength string - stringLength suffix;
        in
        rest >= 0 && substring rest (-1) string == suffix;
      removePrefix =
        prefix: string:
        if lib.hasPrefix prefix string then substring (stringLength prefix) (-1) string else string;
      boolToString = b: if b then "true" else "false";
      escapeShellArg =
        arg:
        if match "[[:alnum:],._+:@%/-]+" (toString arg) != null then
          toString arg
        else
          "'${replaceStrings [ "'" ] [ "'\\''" ] (toString arg)}'";

      # Packages.
      getExe = package: "${package}/bin/${package.meta.mainProgram}";
      getExe' = package: name: "${package}/bin/${name}";
      isDerivation = value: value.type or null == "derivation";
      licenses.asl20.spdxId = "Apache-2.0";
      maintainers = { };
      platforms.linux = [
        "x86_64-linux"
        "aarch64-linux"
      ];
      # A set of files is a list of paths and filters here: nothing is built from it.
      fileset = {
        toSource = { root, fileset }: builtins.deepSeq (map toString fileset) root;
        maybeMissing = path: if builtins.pathExists path then [ path ] else [ ];
        unions = concatMap (f: if builtins.isList f then f else [ f ]);
        fileFilter =
          pred: root:
          if
            any pred [
              {
                name = "a.go";
                type = "regular";
                hasExt = ext: ext == "go";
              }
            ]
          then
            [ root ]
          else
            throw "the filter takes no Go file";
      };

      # Text for the options' reference.
      literalExpression = text: {
        _type = "literalExpression";
        inherit text;
      };
      showOption = concatStringsSep ".";
      showFiles = defs: lib.concatMapStringsSep ", " (def: "`${def.file}'") defs;
      # A value for a message; what cannot be evaluated must not hide what the message says.
      showValue =
        value:
        let
          shown = builtins.tryEval (
            if builtins.isFunction value then
              "<function>"
            else if isAttrs value && value ? outPath then
              "<derivation>"
            else
              toJSON value
          );
        in
        if shown.success then shown.value else "<error>";
    };
in
lib
