package hook

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"

	"qemu-hook/text"
)

// MaxConfig is as many bytes as a configuration file may have.
const MaxConfig = 64 << 10

const (
	configMaxMetadata = 16 << 10
	configMaxErrors   = 20
)

// A ConfigError is one mistake in a configuration.
type ConfigError struct {
	File    string
	Line    int    // 0 if unknown
	Key     string // as one would write it; "" when it is about no key
	Value   string // as one would write it; "" when it is about the key itself
	Problem string
}

func (e *ConfigError) Error() string {
	s := e.File
	if e.Line > 0 {
		s = fmt.Sprintf("%s:%d", s, e.Line)
	}
	if e.Key != "" {
		s += ": " + e.Key
	}
	if e.Value != "" {
		s += " = " + e.Value
	}
	return text.Line(s + ": " + e.Problem)
}

type configErrors []*ConfigError

// join returns the mistakes as one error, in the order of lines.
func (errs configErrors) join() error {
	slices.SortStableFunc(errs, func(a, b *ConfigError) int { return a.Line - b.Line })
	var all []error
	for _, e := range errs {
		all = append(all, e)
	}
	return errors.Join(all...)
}

// configSetting is a key with a value that its set function has accepted.
type configSetting struct {
	key   configKey
	path  []string // without guest.NAME
	value any
	guest string // "" at the top level

	parser *configParser // of metadata, for the line of an error
}

// apply stores the value.
func (s configSetting) apply(c *Config) {
	if err := s.key.set(c, s.path, s.value); err != nil {
		panic("a checked setting of " + s.key.name + " is refused: " + err.Error())
	}
}

// applyMetadata stores the value if a domain's metadata may set it; host is what holds without any.
func (s configSetting) applyMetadata(c, host *Config) *ConfigError {
	if s.guest != "" {
		return s.parser.mistake(append([]string{"guest", s.guest}, s.path...), nil, "only the host's file may have it")
	}
	switch s.key.meta {
	case metaAny:
		s.apply(c)
		return nil
	case metaNarrower:
		s.apply(c)
		if s.key.rank(c) <= s.key.rank(host) {
			return nil
		}
		return s.parser.mistake(s.path, s.value, "allows more than the host's file does; only that file may")
	}
	return s.parser.mistake(s.path, nil, "only the host's file may set it")
}

// configParser walks a decoded file. Values come undecoded, so that the decoder can be asked for their lines.
type configParser struct {
	name     string
	meta     toml.MetaData
	root     map[string]toml.Primitive
	keys     []configKey
	settings []configSetting
	errs     configErrors
	scratch  *Config
}

// parseSettings reads TOML and checks all of it against the list of keys.
func parseSettings(name string, data []byte, most int) ([]configSetting, error) {
	if len(data) == 0 {
		return nil, nil
	}
	p := &configParser{name: name, keys: configKeys(), scratch: new(Config)}
	if len(data) > most {
		return nil, &ConfigError{File: name, Problem: fmt.Sprintf("has more than %d bytes", most)}
	}
	if line := configTooDeep(data); line > 0 {
		return nil, &ConfigError{File: name, Line: line, Problem: "is nested deeper than any key there is"}
	}
	if err := p.decode(data); err != nil {
		return nil, err
	}
	tree := make(map[string]any, len(p.root))
	for key, prim := range p.root {
		var v any
		if err := p.meta.PrimitiveDecode(prim, &v); err != nil {
			return nil, &ConfigError{File: name, Key: configKeyString(key), Problem: err.Error()}
		}
		tree[key] = v
	}
	p.table(nil, "", tree)
	if err := p.errs.join(); err != nil {
		return nil, err
	}
	return p.settings, nil
}

// decode reads the syntax. The library panics where it believes to have a mistake of its own.
func (p *configParser) decode(data []byte) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = &ConfigError{File: p.name, Problem: "cannot be read as TOML: " + configText(fmt.Sprint(r))}
		}
	}()
	p.meta, err = toml.Decode(string(data), &p.root)
	var pe toml.ParseError
	if errors.As(err, &pe) {
		problem := configPlain(pe.Message)
		if key := configBarePath(data, pe.Position.Line); key != "" {
			problem = "a path as a key needs quotes: " + key
		}
		return &ConfigError{File: p.name, Line: pe.Position.Line, Problem: problem}
	}
	if err != nil {
		return &ConfigError{File: p.name, Problem: configPlain(err.Error())}
	}
	return nil
}

// configBarePath returns the key of a line, in quotes, if it is a path that has none; else "".
func configBarePath(data []byte, line int) string {
	lines := strings.Split(string(data), "\n")
	if line < 1 || line > len(lines) {
		return ""
	}
	key, _, ok := strings.Cut(lines[line-1], "=")
	if key = strings.TrimSpace(key); !ok || !strings.Contains(key, "/") || strings.ContainsAny(key, "\"'") {
		return ""
	}
	return configValue(key)
}

// configPlain puts a message of the decoder in the form of ours.
func configPlain(s string) string {
	s = strings.TrimSuffix(s, ".")
	if len(s) < 2 || strings.ToUpper(s[:2]) == s[:2] { // TOML
		return s
	}
	return strings.ToLower(s[:1]) + s[1:]
}

// table checks a table; path is its key, without guest.NAME where guest is set.
func (p *configParser) table(path []string, guest string, t map[string]any) {
	for _, name := range sortedKeys(t) {
		if len(p.errs) >= configMaxErrors {
			return
		}
		v := t[name]
		if len(path) == 0 && guest == "" && name == "guest" {
			p.guests(v)
			continue
		}
		p.entry(append(slices.Clone(path), name), guest, v)
	}
}

// guests checks the [guest.NAME] tables.
func (p *configParser) guests(v any) {
	tables, ok := v.(map[string]any)
	if !ok {
		p.fail([]string{"guest"}, v, `want tables such as [guest.win11]`)
		return
	}
	for _, name := range sortedKeys(tables) {
		t, ok := tables[name].(map[string]any)
		switch {
		case name == "":
			p.fail([]string{"guest", name}, nil, "is no name of a guest")
		case !ok && slices.ContainsFunc(p.keys, func(k configKey) bool { return k.name == name || strings.HasPrefix(k.name, name+".") }):
			p.fail([]string{"guest", name}, tables[name], "lacks the guest's name; write guest.NAME."+name)
		case !ok:
			p.fail([]string{"guest", name}, tables[name], "want a table")
		default:
			p.table(nil, name, t)
		}
	}
}

// entry checks one key of a table.
func (p *configParser) entry(path []string, guest string, v any) {
	full := path
	if guest != "" {
		full = append([]string{"guest", guest}, path...)
	}
	isTable := false
	for _, k := range p.keys {
		n, match := k.matches(path)
		if k.reaches(path) {
			_, table := v.(map[string]any)
			n, match = len(path), !table
		}
		if match {
			if guest != "" && k.shared() {
				p.fail(full, nil, "is for all guests together; set "+k.name+" at the top level")
				return
			}
			if err := k.set(p.scratch, path, v); err != nil {
				p.fail(full, v, err.Error())
				return
			}
			p.settings = append(p.settings, configSetting{k, path, v, guest, p})
			return
		}
		isTable = isTable || n == len(path)
	}
	if !isTable {
		p.fail(full, nil, p.unknown(path))
		return
	}
	t, ok := v.(map[string]any)
	if !ok {
		p.fail(full, v, "want a table: ["+configKeyString(full...)+"]")
		return
	}
	p.table(path, guest, t)
}

// unknown says what is wrong with a key that is none, and which was meant.
func (p *configParser) unknown(path []string) string {
	written := strings.Join(path, ".")
	last := path[len(path)-1]
	best, distance := "", 3
	for _, k := range p.keys {
		name := k.name
		if parts := strings.Split(name, "."); len(parts) > len(path) {
			// The table may be misspelt, or missing.
			if parts[len(parts)-1] == last && best == "" {
				best = name
			}
			name = strings.Join(parts[:len(path)], ".")
		}
		if d := configDistance(written, name); d < distance && d < len(name) {
			best, distance = name, d
		}
	}
	if best != "" {
		return "no such key; did you mean " + best + "?"
	}
	var known []string
	for _, k := range p.keys {
		parts := strings.Split(k.name, ".")
		if n, _ := k.matches(path); n == len(path)-1 && n < len(parts) && !slices.Contains(known, parts[n]) {
			known = append(known, parts[n])
		}
	}
	return "no such key; known here are " + strings.Join(known, ", ")
}

// configDistance is the number of letters to add, drop or change to get from a to b.
func configDistance(a, b string) int {
	const far = 100
	if len(a) > far || len(b) > far {
		return far
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			d := diagonal
			if a[i] != b[j] {
				d = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], d
		}
	}
	return row[len(b)]
}

// fail notes a mistake in the value of a key, or in the key if value is nil.
func (p *configParser) fail(path []string, value any, problem string) {
	p.errs = append(p.errs, p.mistake(path, value, problem))
}

func (p *configParser) mistake(path []string, value any, problem string) *ConfigError {
	e := &ConfigError{File: p.name, Line: p.line(path), Key: configKeyString(path...), Problem: problem}
	if value != nil {
		e.Value = configValue(value)
	}
	return e
}

// line asks the decoder on which line a key has its value.
func (p *configParser) line(path []string) int {
	t := p.root
	for _, name := range path[:len(path)-1] {
		var next map[string]toml.Primitive
		prim, ok := t[name]
		if !ok || p.meta.PrimitiveDecode(prim, &next) != nil {
			return 0
		}
		t = next
	}
	prim, ok := t[path[len(path)-1]]
	if !ok {
		return 0
	}
	return p.lineOf(prim, 0)
}

// lineOf is the line of a value; a table that has no line of its own begins where the first thing in it does.
func (p *configParser) lineOf(prim toml.Primitive, depth int) int {
	var pe toml.ParseError
	if err := p.meta.PrimitiveDecode(prim, configLocate{}); errors.As(err, &pe) && pe.Position.Line > 0 || depth > 8 {
		return pe.Position.Line
	}
	var v any
	if p.meta.PrimitiveDecode(prim, &v) != nil {
		return 0
	}
	first := 0
	if _, ok := v.(map[string]any); ok {
		var inside map[string]toml.Primitive
		_ = p.meta.PrimitiveDecode(prim, &inside)
		for _, prim := range inside {
			if line := p.lineOf(prim, depth+1); line > 0 && (first == 0 || line < first) {
				first = line
			}
		}
	}
	return first
}

// configLocate takes no value: the decoder's error has the line.
type configLocate struct{}

// UnmarshalTOML always fails.
func (configLocate) UnmarshalTOML(any) error { return errors.New("located") }

// configKeyString renders a key as one would write it, shortened.
func configKeyString(path ...string) string {
	k := make(toml.Key, len(path))
	for i, part := range path {
		k[i] = configText(part)
	}
	return k.String()
}
