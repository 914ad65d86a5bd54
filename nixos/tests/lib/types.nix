# Types of options: each { name; description; check; merge location definitions; } and, for those made of others,
# emptyValue and getSubOptions.
lib:

let
  inherit (builtins)
    all
    attrNames
    concatMap
    concatStringsSep
    elemAt
    foldl'
    genList
    head
    isAttrs
    isBool
    isInt
    isList
    isString
    length
    listToAttrs
    match
    ;
  inherit (lib) nameValuePair optional showOption;

  simple = name: description: check: {
    _type = "option-type";
    inherit name description check;
    merge = mergeEqual;
    getSubOptions = _: { };
  };
  joined =
    name: description: sep:
    simple name description isString
    // {
      merge = _: defs: concatStringsSep sep (map (def: def.value) defs);
    };

  mergeEqual =
    loc: defs:
    let
      value = (head defs).value;
    in
    if all (def: def.value == value) defs then
      value
    else
      throw "The option `${showOption loc}' has conflicting definition values in ${lib.showFiles defs}.";

  # Checks the definitions and merges them.
  checked =
    type: loc: defs:
    let
      bad = builtins.filter (def: !(type.check def.value)) defs;
      where = lib.concatMapStringsSep "; " (def: "in `${def.file}': ${lib.showValue def.value}") bad;
    in
    if bad == [ ] then
      type.merge loc defs
    else
      throw "A definition for option `${showOption loc}' is not of type `${type.description}'. Definition values: ${where}";

  between =
    low: high:
    simple "intBetween" "integer between ${toString low} and ${toString high} (both inclusive)" (
      v: isInt v && low <= v && v <= high
    );

  types = {
    inherit checked;

    raw = simple "raw" "raw value" (_: true);
    unspecified = simple "unspecified" "unspecified value" (_: true);
    anything = simple "anything" "anything" (_: true) // {
      merge =
        loc: defs:
        if all (def: isAttrs def.value && !(def.value ? outPath)) defs then
          (types.attrsOf types.anything).merge loc defs
        else if all (def: isList def.value) defs then
          concatMap (def: def.value) defs
        else
          mergeEqual loc defs;
    };

    bool = simple "bool" "boolean" isBool;
    int = simple "int" "signed integer" isInt;
    float = simple "float" "floating point number" builtins.isFloat;
    ints = {
      inherit between;
      positive = simple "positiveInt" "positive integer, meaning >0" (v: isInt v && v > 0);
      unsigned = simple "unsignedInt" "unsigned integer, meaning >=0" (v: isInt v && v >= 0);
    };
    port = between 0 65535 // {
      description = "16 bit unsigned integer; between 0 and 65535 (both inclusive)";
    };

    str = simple "str" "string" isString;
    nonEmptyStr = simple "nonEmptyStr" "non-empty string" (v: isString v && match "[ \t\n]*" v == null);
    singleLineStr = simple "singleLineStr" "(optionally newline-terminated) single-line string" (
      v: isString v && match "[^\n]*\n?" v != null
    );
    strMatching =
      pattern:
      simple "strMatching" "string matching the pattern ${pattern}" (
        v: isString v && match pattern v != null
      );
    lines = joined "lines" ''strings concatenated with "\n"'' "\n";
    commas = joined "commas" ''strings concatenated with ","'' ",";
    enum =
      values:
      simple "enum" "one of ${lib.concatMapStringsSep ", " builtins.toJSON values}" (
        v: builtins.elem v values
      );

    path = simple "path" "absolute path" (
      v: (builtins.isPath v || isString v || isAttrs v && v ? outPath) && lib.hasPrefix "/" "${toString v}"
    );
    package = simple "package" "package" (
      v: lib.isDerivation v || (isString v && lib.hasPrefix builtins.storeDir v)
    );

    nullOr =
      elem:
      simple "nullOr" "null or ${elem.description}" (v: v == null || elem.check v)
      // {
        emptyValue.value = null;
        getSubOptions = elem.getSubOptions;
        merge =
          loc: defs:
          if all (def: def.value == null) defs then
            null
          else if builtins.any (def: def.value == null) defs then
            throw "The option `${showOption loc}' is defined both null and not null, in ${lib.showFiles defs}."
          else
            elem.merge loc defs;
      };

    either =
      a: b:
      simple "either" "${a.description} or ${b.description}" (v: a.check v || b.check v)
      // {
        merge =
          loc: defs:
          if all (def: a.check def.value) defs then
            a.merge loc defs
          else if all (def: b.check def.value) defs then
            b.merge loc defs
          else
            mergeEqual loc defs;
      };
    oneOf = all: foldl' types.either (head all) (builtins.tail all);
    coercedTo =
      from: coerce: to:
      simple "coercedTo" to.description (v: to.check v || from.check v)
      // {
        merge =
          loc: defs:
          to.merge loc (
            map (def: def // { value = if from.check def.value then coerce def.value else def.value; }) defs
          );
      };

    listOf =
      elem:
      simple "listOf" "list of ${elem.description}" isList
      // {
        emptyValue.value = [ ];
        getSubOptions = prefix: elem.getSubOptions (prefix ++ [ "*" ]);
        merge =
          loc: defs:
          concatMap (
            def:
            builtins.concatLists (
              genList (
                i:
                let
                  own = lib.discharge def.file (elemAt def.value i);
                in
                map (d: checked elem (loc ++ [ "[definition ${toString i}]" ]) [ d ]) (lib.prioritise own)
              ) (length def.value)
            )
          ) defs;
      };

    attrsOf =
      elem:
      simple "attrsOf" "attribute set of ${elem.description}" isAttrs
      // {
        emptyValue.value = { };
        getSubOptions = prefix: elem.getSubOptions (prefix ++ [ "<name>" ]);
        merge =
          loc: defs:
          let
            names = lib.unique (concatMap (def: attrNames def.value) defs);
            of =
              name:
              concatMap (
                def: if def.value ? ${name} then lib.discharge def.file def.value.${name} else [ ]
              ) defs;
          in
          listToAttrs (
            concatMap (
              name:
              optional (of name != [ ]) (
                nameValuePair name (checked elem (loc ++ [ name ]) (lib.prioritise (of name)))
              )
            ) names
          );
      };

    submodule =
      module:
      let
        evaluate =
          loc: more:
          lib.evalModules {
            modules = lib.toList module ++ more;
            specialArgs.name = if loc == [ ] then "" else lib.last loc;
            prefix = loc;
          };
      in
      simple "submodule" "submodule" (v: isAttrs v || builtins.isFunction v)
      // {
        emptyValue.value = { };
        getSubOptions = prefix: (evaluate prefix [ ]).options;
        merge =
          loc: defs:
          (evaluate loc (
            map (def: {
              _file = def.file;
              imports = [ (if isAttrs def.value then { config = def.value; } else def.value) ];
            }) defs
          )).public;
      };
  };
in
types
