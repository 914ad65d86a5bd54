# Options, definitions and evalModules.
lib:

let
  inherit (builtins)
    attrNames
    attrValues
    concatLists
    concatMap
    elem
    filter
    foldl'
    functionArgs
    head
    isAttrs
    isFunction
    isPath
    isString
    length
    mapAttrs
    ;
  inherit (lib)
    mkIf
    mkOption
    nameValuePair
    optional
    showOption
    types
    ;

  isType = type: value: isAttrs value && value._type or null == type;
  isOption = isType "option";

  # A module as a list of { file; key; options; config; }, those that it imports first. The key is the path that it was loaded
  # from, by which a module that is imported twice counts once; null for one that has none.
  load =
    args: resolve:
    let
      go =
        file: key: module:
        if isPath module || isString module then
          go (toString module) (toString module) (import module)
        else if isFunction module then
          go file key (module (args // mapAttrs (name: _: resolve file name) (functionArgs module)))
        else
          concatMap (go (module._file or file) null) (module.imports or [ ])
          ++ [ (parts (module._file or file) key module) ];
      parts =
        file: key: module:
        let
          structured = module ? options || module ? config;
          plain = removeAttrs module [
            "_class"
            "_file"
            "config"
            "imports"
            "key"
            "meta"
            "options"
          ];
        in
        {
          inherit file key;
          options = module.options or { };
          config =
            if !structured then
              plain
            else if plain != { } then
              throw "Module `${file}' has an unsupported attribute `${head (attrNames plain)}'. This is caused by introducing a top-level `config' or `options' attribute."
            else
              module.config or { };
        };
    in
    go "<unknown>" null;

  once = foldl' (
    seen: m: if m.key != null && builtins.any (s: s.key == m.key) seen then seen else seen ++ [ m ]
  ) [ ];

  # Moves conditions and priorities from a set of definitions to the definitions.
  push =
    config:
    if isType "if" config then
      mapAttrs (_: mkIf config.condition) (push config.content)
    else if isType "merge" config then
      foldl' (a: b: a // mapAttrs (n: v: if a ? ${n} then lib.mkMerge [ a.${n} v ] else v) b) { } (
        map push config.contents
      )
    else if isType "override" config then
      mapAttrs (_: lib.mkOverride config.priority) (push config.content)
    else
      config;

  # One option, from its declaration and its definitions.
  evalOption =
    loc: decl: definitions:
    let
      option = decl.options;
      type = option.type or types.unspecified;
      given = concatMap (def: lib.discharge def.file def.config) definitions;
      all =
        given
        ++ optional (option ? default) {
          inherit (decl) file;
          value = option.default;
          priority = 1500;
          order = 1000;
        };
      value =
        if all != [ ] then
          types.checked type loc (lib.prioritise all)
        else
          type.emptyValue.value
            or (throw "The option `${showOption loc}' was accessed but has no value defined. Try setting the option.");
    in
    {
      options = option // {
        inherit loc value;
      };
      config = (option.apply or (v: v)) value;
      unmatched = [ ];
    };

  # A level of the tree of options.
  evalTree =
    loc: declarations: definitions:
    let
      names = lib.unique (concatMap (d: attrNames d.options) declarations);
      sub =
        name:
        let
          here = loc ++ [ name ];
          decls = concatMap (
            d: optional (d.options ? ${name}) { inherit (d) file; options = d.options.${name}; }
          ) declarations;
          declared = filter (d: isOption d.options) decls;
          defs = concatMap (
            d: optional (d.config ? ${name}) { inherit (d) file; config = d.config.${name}; }
          ) definitions;
        in
        if declared == [ ] then
          evalTree here decls (map (d: d // { config = push d.config; }) defs)
        else if length declared > 1 then
          throw "The option `${showOption here}' in ${lib.showFiles declared} is already declared."
        else
          evalOption here (head declared) defs;
      subs = lib.genAttrs names sub;
    in
    {
      options = mapAttrs (_: s: s.options) subs;
      config = mapAttrs (_: s: s.config) subs;
      unmatched =
        concatMap (
          d:
          map (name: {
            inherit (d) file;
            path = loc ++ [ name ];
          }) (filter (name: !(elem name names)) (attrNames d.config))
        ) definitions
        ++ concatMap (s: s.unmatched) (attrValues subs);
    };
in
{
  inherit isOption;
  toList = v: if builtins.isList v then v else [ v ];

  mkOption = attrs: { _type = "option"; } // attrs;
  mkEnableOption =
    name:
    mkOption {
      type = types.bool;
      default = false;
      example = true;
      description = "Whether to enable ${name}.";
    };

  mkIf = condition: content: {
    _type = "if";
    inherit condition content;
  };
  mkMerge = contents: {
    _type = "merge";
    inherit contents;
  };
  mkOverride = priority: content: {
    _type = "override";
    inherit priority content;
  };
  mkDefault = lib.mkOverride 1000;
  mkForce = lib.mkOverride 50;
  mkOrder = priority: content: {
    _type = "order";
    inherit priority content;
  };
  mkBefore = lib.mkOrder 500;
  mkAfter = lib.mkOrder 1500;

  # A definition as a list of { file; value; priority; order; }, its mkIf, mkMerge, mkOverride and mkOrder resolved.
  discharge =
    file:
    let
      go =
        priority: order: value:
        if isType "if" value then
          if value.condition then go priority order value.content else [ ]
        else if isType "merge" value then
          concatMap (go priority order) value.contents
        else if isType "override" value then
          go value.priority order value.content
        else if isType "order" value then
          go priority value.priority value.content
        else
          [ { inherit file priority order value; } ];
    in
    go 100 1000;

  # Those definitions that count, in their order.
  prioritise =
    defs:
    let
      top = foldl' (least: def: if def.priority < least then def.priority else least) 9999 defs;
    in
    builtins.sort (a: b: a.order < b.order) (filter (def: def.priority == top) defs);

  evalModules =
    {
      modules,
      specialArgs ? { },
      prefix ? [ ],
    }:
    let
      args = {
        inherit lib config options;
      }
      // specialArgs;
      # What the modules themselves define is looked up when it is needed, or nothing could refer to it.
      resolve =
        file: name:
        args.${name} or (config._module.args.${name}
          or (throw "module argument `${name}' is missing, wanted by `${file}'"));
      own = {
        _file = "lib/modules.nix";
        options._module = {
          args = mkOption {
            type = types.attrsOf types.raw;
            default = { };
            internal = true;
          };
          check = mkOption {
            type = types.bool;
            default = true;
            internal = true;
          };
        };
      };
      # As upstream, later modules come first.
      loaded = lib.reverseList (once (concatMap (load args resolve) ([ own ] ++ modules)));
      tree = evalTree prefix loaded (map (m: m // { config = push m.config; }) loaded);
      inherit (tree) config options;
      known =
        value:
        if tree.unmatched == [ ] || !config._module.check then
          value
        else
          throw "The option `${showOption (head tree.unmatched).path}' does not exist, defined in `${(head tree.unmatched).file}'.";
    in
    {
      config = known config;
      options = known options;
      public = known (removeAttrs config [ "_module" ]);
    };

  # Every option that a person may set, as the options' reference has it.
  optionList =
    let
      render = v: if isType "literalExpression" v then v.text else lib.showValue v;
      go =
        option:
        if !(isOption option) then
          concatLists (attrValues (mapAttrs (_: go) (removeAttrs option [ "_module" ])))
        else
          optional (!(option.internal or false)) {
            name = showOption option.loc;
            type = (option.type or types.unspecified).description;
            description = option.description or "";
            default =
              if option ? defaultText then
                render option.defaultText
              else if option ? default then
                render option.default
              else
                null;
            example = if option ? example then render option.example else null;
          }
          ++ go ((option.type.getSubOptions or (_: { })) option.loc);
    in
    go;
}
