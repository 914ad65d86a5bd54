package scripts

import (
	"fmt"
	"slices"
	"strings"
)

// A node is a command of a script, simple or made of others.
type node struct {
	kind  nodeKind
	line  int
	words []string // of a simple command, as written; what for and case go by; the name of a function
	to    []redirection
	// joins are what stands before each of kids: "", "&&" or "||".
	joins    []string
	kids     []*node
	branches []branch
	not      bool // with a "!" in front
	// background says that nothing waits for it.
	background bool
}

type nodeKind int

const (
	nodeSimple nodeKind = iota
	nodeChain           // joined by && and ||
	nodePipe
	nodeGroup
	nodeIf
	nodeCase
	nodeFor
	nodeWhile
	nodeFunction
)

// A branch is one of if or case: what leads there, and what is done there.
type branch struct {
	condition []*node // of if; none for else
	patterns  []string
	body      []*node
}

type redirection struct{ op, to string }

// parser makes nodes of tokens.
type parser struct {
	tokens []token
	at     int
	depth  int
}

// parse reads a script. What comes before an error is returned with it.
func parse(src string, line int) ([]*node, error) {
	all, lexErr := tokens(src, line)
	p := &parser{tokens: all}
	nodes, err := p.list()
	if err == nil && p.peek().kind != tokenEnd {
		err = p.fail("%s has no beginning", p.peek().text)
	}
	if lexErr != nil {
		err = lexErr
	}
	return nodes, err
}

func (p *parser) peek() token { return p.tokens[p.at] }

func (p *parser) take() token {
	t := p.tokens[p.at]
	if t.kind != tokenEnd {
		p.at++
	}
	return t
}

func (p *parser) is(text string) bool {
	t := p.peek()
	return t.kind != tokenEnd && t.kind != tokenNewline && t.text == text
}

func (p *parser) fail(format string, args ...any) error {
	return &syntaxError{p.peek().line, fmt.Sprintf(format, args...)}
}

// expect takes a word or an operator, after any line ends.
func (p *parser) expect(text string) error {
	p.skipLines()
	if !p.is(text) {
		return p.fail("%s is missing", text)
	}
	p.take()
	return nil
}

func (p *parser) skipLines() {
	for p.peek().kind == tokenNewline {
		p.take()
	}
}

// ends reports whether a word ends a list of commands.
func ends(text string) bool {
	return slices.Contains([]string{"then", "elif", "else", "fi", "do", "done", "esac", "}", ")", ";;", ";&", ";;&"}, text)
}

// list reads commands up to what ends them.
func (p *parser) list() ([]*node, error) {
	if p.depth++; p.depth > maxDepth {
		return nil, p.fail("more than %d commands inside one another", maxDepth)
	}
	defer func() { p.depth-- }()
	var all []*node
	for {
		t := p.peek()
		switch {
		case t.kind == tokenEnd:
			return all, nil
		case t.kind == tokenNewline, t.kind == tokenOperator && (t.text == ";" || t.text == "&"):
			p.take()
			continue
		case ends(t.text):
			return all, nil
		}
		n, err := p.chain()
		if n != nil {
			n.background = p.is("&")
			all = append(all, n)
		}
		if err != nil {
			return all, err
		}
	}
}

func (p *parser) chain() (*node, error) {
	first, err := p.pipe()
	if err != nil || !p.is("&&") && !p.is("||") {
		return first, err
	}
	n := &node{kind: nodeChain, line: first.line, joins: []string{""}, kids: []*node{first}}
	for p.is("&&") || p.is("||") {
		op := p.take().text
		p.skipLines()
		kid, err := p.pipe()
		if kid != nil {
			n.joins, n.kids = append(n.joins, op), append(n.kids, kid)
		}
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

func (p *parser) pipe() (*node, error) {
	not := false
	for p.is("!") {
		p.take()
		not = !not
	}
	first, err := p.command()
	if first != nil {
		first.not = not
	}
	if err != nil || !p.is("|") && !p.is("|&") {
		return first, err
	}
	n := &node{kind: nodePipe, line: first.line, kids: []*node{first}, not: not}
	first.not = false
	for p.is("|") || p.is("|&") {
		p.take()
		p.skipLines()
		kid, err := p.command()
		if kid != nil {
			n.kids = append(n.kids, kid)
		}
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

func (p *parser) command() (n *node, err error) {
	t := p.peek()
	switch {
	case t.kind == tokenOperator && t.text == "(":
		p.take()
		n, err = p.group(t.line, ")")
	case t.kind != tokenWord && !redirects(t.text):
		return nil, p.fail("%q where a command should stand", t.text)
	case t.text == "{":
		p.take()
		n, err = p.group(t.line, "}")
	case t.text == "if":
		n, err = p.ifClause()
	case t.text == "case":
		n, err = p.caseClause()
	case t.text == "for" || t.text == "select":
		if n, err = p.forClause(); n != nil && t.text == "select" {
			n.kind, n.branches = nodeWhile, []branch{{}} // until somebody chooses
		}
	case t.text == "while" || t.text == "until":
		n, err = p.whileClause()
	case t.text == "function":
		p.take()
		return p.function()
	case t.kind == tokenWord && p.at+2 < len(p.tokens) && p.tokens[p.at+1].text == "(" && p.tokens[p.at+2].text == ")":
		return p.function()
	case t.text == "[[":
		return p.test()
	default:
		return p.simple()
	}
	for err == nil && p.redirection(n) {
	}
	return n, err
}

func (p *parser) group(line int, end string) (*node, error) {
	body, err := p.list()
	n := &node{kind: nodeGroup, line: line, kids: body}
	if err == nil {
		err = p.expect(end)
	}
	return n, err
}

func (p *parser) function() (*node, error) {
	name := p.take()
	if p.is("(") {
		p.take()
		if err := p.expect(")"); err != nil {
			return nil, err
		}
	}
	p.skipLines()
	body, err := p.command()
	n := &node{kind: nodeFunction, line: name.line, words: []string{name.text}}
	if body != nil {
		n.kids = []*node{body}
	}
	return n, err
}

// test reads [[ … ]] with its operators as words.
func (p *parser) test() (*node, error) {
	n := &node{line: p.peek().line}
	for {
		t := p.take()
		switch t.kind {
		case tokenEnd:
			return n, p.fail("]] is missing")
		case tokenNewline:
			continue
		}
		n.words = append(n.words, t.text)
		if t.text == "]]" {
			return n, nil
		}
	}
}

func (p *parser) simple() (*node, error) {
	n := &node{line: p.peek().line}
	for {
		if p.redirection(n) {
			continue
		}
		if p.peek().kind != tokenWord {
			return n, nil
		}
		n.words = append(n.words, p.take().text)
	}
}

// redirects reports whether an operator is a redirection.
func redirects(op string) bool {
	return strings.ContainsAny(op, "<>") && !strings.ContainsAny(op, "()")
}

// redirection takes one, if there is one.
func (p *parser) redirection(n *node) bool {
	t := p.peek()
	if t.kind != tokenOperator || !redirects(t.text) {
		return false
	}
	p.take()
	to := ""
	if p.peek().kind == tokenWord {
		to = p.take().text
	}
	n.to = append(n.to, redirection{t.text, to})
	return true
}

func (p *parser) ifClause() (*node, error) {
	n := &node{kind: nodeIf, line: p.peek().line}
	for {
		word := p.take().text // if, elif, else
		var b branch
		var err error
		if word != "else" {
			if b.condition, err = p.list(); err == nil {
				err = p.expect("then")
			}
		}
		if err == nil {
			b.body, err = p.list()
		}
		n.branches = append(n.branches, b)
		switch {
		case err != nil:
			return n, err
		case p.is("elif") || p.is("else"):
			continue
		}
		return n, p.expect("fi")
	}
}

func (p *parser) caseClause() (*node, error) {
	n := &node{kind: nodeCase, line: p.take().line, words: []string{p.take().text}}
	if err := p.expect("in"); err != nil {
		return n, err
	}
	for {
		p.skipLines()
		if p.is("esac") || p.peek().kind == tokenEnd {
			return n, p.expect("esac")
		}
		var b branch
		for !p.is(")") {
			t := p.take()
			if t.kind == tokenEnd || t.kind == tokenNewline {
				return n, p.fail("a pattern of case has no )")
			}
			if t.kind == tokenWord {
				b.patterns = append(b.patterns, t.text)
			}
		}
		p.take()
		body, err := p.list()
		b.body = body
		n.branches = append(n.branches, b)
		if err != nil {
			return n, err
		}
		if p.is(";;") || p.is(";&") || p.is(";;&") {
			p.take()
		}
	}
}

func (p *parser) forClause() (*node, error) {
	n := &node{kind: nodeFor, line: p.take().line}
	for !p.is("do") {
		t := p.take()
		if t.kind == tokenEnd {
			return n, p.fail("do is missing")
		}
		if t.kind == tokenWord {
			n.words = append(n.words, t.text)
		}
	}
	return p.loop(n)
}

func (p *parser) whileClause() (*node, error) {
	n := &node{kind: nodeWhile, line: p.take().line}
	condition, err := p.list()
	n.branches = []branch{{condition: condition}}
	if err != nil {
		return n, err
	}
	return p.loop(n)
}

func (p *parser) loop(n *node) (*node, error) {
	if err := p.expect("do"); err != nil {
		return n, err
	}
	body, err := p.list()
	n.kids = body
	if err == nil {
		err = p.expect("done")
	}
	return n, err
}
