# Every option of a tree, with those inside of submodules: { name; type; description; default; example; }, as text.
{ lib }:

let
  inherit (builtins) attrValues concatLists mapAttrs;

  show =
    v:
    if v._type or null == "literalExpression" then
      v.text
    else if builtins.isFunction v then
      "<function>"
    else if builtins.isAttrs v && v ? outPath then
      "<derivation>"
    else
      builtins.toJSON v;

  list =
    option:
    if !(lib.isOption option) then
      concatLists (attrValues (mapAttrs (_: list) (removeAttrs option [ "_module" ])))
    else
      lib.optional (!(option.internal or false)) {
        name = lib.showOption option.loc;
        type = option.type.description;
        description = option.description or "";
        default =
          if option ? defaultText then
            show option.defaultText
          else if option ? default then
            show option.default
          else
            null;
        example = if option ? example then show option.example else null;
      }
      ++ list (option.type.getSubOptions option.loc);
in
list
