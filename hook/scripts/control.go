package scripts

import (
	"path"
	"slices"
	"strings"
)

// inLoop is why a command in a loop is none to be run by itself.
const inLoop = "it is in a loop, of which nobody knows how often it is gone through"

func (s *script) list(nodes []*node, w when) when {
	for _, n := range nodes {
		w = s.node(n, w)
	}
	return w
}

func (s *script) node(n *node, w when) when {
	if s.r.steps++; s.r.steps > maxSteps {
		if s.r.steps == maxSteps+1 {
			s.r.notef(s.file, n.line, "not understood from here on: more than %d commands", maxSteps)
		}
		return w
	}
	inside := w
	if n.background {
		inside = inside.hold("nothing waits for it here")
	}
	if n.not {
		inside = inside.hold("here it is meant to fail")
	}
	after := s.inside(n, inside)
	after.held = w.held
	return after
}

func (s *script) inside(n *node, w when) when {
	switch n.kind {
	case nodeSimple:
		s.simple(n, w)
	case nodeChain:
		return s.chain(n, w)
	case nodePipe:
		s.pipe(n, w)
	case nodeGroup:
		w = s.list(n.kids, w)
	case nodeIf:
		return s.ifClause(n, w)
	case nodeCase:
		return s.caseClause(n, w)
	case nodeFor:
		s.forClause(n, w)
	case nodeWhile:
		s.list(n.branches[0].condition, w.hold(inLoop))
		s.list(n.kids, w.hold(inLoop))
	case nodeFunction:
		s.funcs[n.words[0]] = function{n, s.file}
	}
	return w
}

func (s *script) tested(n *node) (c condition, unequal, ok bool) {
	switch n.kind {
	case nodeSimple:
		if len(n.words) > 0 && strings.HasPrefix(n.words[0], "((") {
			return condition{vague: true}, false, true
		}
		if args, is := isTest(s.vars.expand(n.words)); is {
			c, unequal = testOf(args, n.not)
			return c, unequal, true
		}
	case nodeChain:
		for i, kid := range n.kids {
			one, ne, is := s.tested(kid)
			switch {
			case !is || ne:
				return condition{}, false, false
			case i == 0:
				c = one
			case n.joins[i] == "||":
				c = c.or(one)
			default:
				w := when{guests: c.guests, phase: c.phase}.and(one, 0)
				c = condition{w.guests, w.phase, c.vague || one.vague}
			}
		}
		return c, false, true
	}
	return condition{}, false, false
}

func leaves(nodes []*node) bool {
	return slices.ContainsFunc(nodes, func(n *node) bool {
		if n.kind == nodeGroup {
			return leaves(n.kids)
		}
		return n.kind == nodeSimple && len(n.words) > 0 && (n.words[0] == "exit" || n.words[0] == "return") &&
			(len(n.words) == 1 || n.words[1] == "0")
	})
}

func (s *script) chain(n *node, w when) when {
	here, rest := w, w
	var last condition           // what the commands before say
	tested, done := false, false // done: something was run before
	for i, kid := range n.kids {
		now := here
		if n.joins[i] == "&&" && done {
			now = now.hold("it runs only if what stands before it succeeds")
		}
		switch {
		case n.joins[i] == "||" && tested && leaves([]*node{kid}):
			rest = w.and(last, n.line)
		case n.joins[i] == "||" && tested:
			now = w.and(last.not(), n.line)
		case n.joins[i] == "||":
			now.only = kid.line
			now = now.hold("it runs only if what stands before it fails")
		}
		c, unequal, is := s.tested(kid)
		if !is {
			s.node(kid, now)
			done = true
			if i > 0 && !tested && leaves([]*node{kid}) {
				rest = w.and(condition{vague: true}, n.line)
			}
			if s.onlyLooks(kid) && i == 0 {
				here = here.and(condition{vague: true}, n.line)
			}
			continue
		}
		if leaving := i+1 < len(n.kids) && n.joins[i+1] == "&&" && leaves(n.kids[i+1:i+2]); leaving && !unequal && (c.vague || c.guests != nil) {
			rest = w.and(condition{vague: true}, n.line)
		}
		if unequal && i+1 < len(n.kids) && n.joins[i+1] == "&&" && leaves(n.kids[i+1:i+2]) {
			return w.and(c, n.line)
		}
		if unequal {
			c = c.not()
		}
		last, tested = c, true
		here = here.and(c, n.line)
	}
	return rest
}

func (s *script) onlyLooks(n *node) bool {
	switch n.kind {
	case nodeSimple:
		args := s.vars.expand(n.words)
		return len(args) > 0 && looks(unwrap(args))
	case nodePipe:
		return !slices.ContainsFunc(n.kids, func(k *node) bool { return !s.onlyLooks(k) })
	}
	return false
}

func (s *script) ifClause(n *node, w when) when {
	rest := w
	var before condition
	for i, b := range n.branches {
		if b.condition == nil {
			s.list(b.body, w.and(before.not(), n.line))
			break
		}
		var c condition
		unequal, is := false, false
		if len(b.condition) == 1 {
			c, unequal, is = s.tested(b.condition[0])
		}
		if !is {
			s.list(b.condition, w.hold("here it is a condition"))
			c = condition{vague: true}
		}
		if unequal {
			s.list(b.body, w.and(c.not(), n.line))
			if len(n.branches) == 1 && leaves(b.body) {
				return w.and(c, n.line)
			}
			if i+1 < len(n.branches) && n.branches[i+1].condition == nil {
				s.list(n.branches[i+1].body, w.and(c, n.line))
				return w
			}
			before = condition{vague: true}
			continue
		}
		s.list(b.body, w.and(c, b.condition[0].line))
		if (c.vague || c.guests != nil) && leaves(b.body) {
			rest = rest.and(condition{vague: true}, n.line)
		}
		before = before.besides(c)
	}
	return rest
}

func (s *script) caseClause(n *node, w when) when {
	subject := s.vars.one(n.words[0])
	rest := w
	var before condition
	for _, b := range n.branches {
		if otherwise(b.patterns) {
			if !hasArguments(subject.text) {
				before.vague = true
			}
			s.list(b.body, w.and(before.not(), n.line))
			if leaves(b.body) {
				rest = rest.and(condition{guests: before.guests, vague: before.vague}, n.line)
			}
			continue
		}
		c := patternsOf(subject, s.vars.expand(b.patterns))
		s.list(b.body, w.and(c, n.line))
		if leaves(b.body) && (c.vague || c.guests != nil) {
			rest = rest.and(condition{vague: true}, n.line)
		}
		before = before.besides(c)
	}
	return rest
}

func (s *script) forClause(n *node, w when) {
	if len(n.words) == 0 || nameLength(n.words[0]) != len(n.words[0]) {
		s.list(n.kids, w.hold(inLoop))
		return
	}
	name := n.words[0]
	var values []arg
	if len(n.words) > 2 && n.words[1] == "in" {
		values = s.vars.expand(n.words[2:])
	}
	if len(values) == 0 {
		delete(s.vars, name)
		s.list(n.kids, w.hold(inLoop))
		return
	}
	for i, v := range values {
		if i == maxTurns {
			s.r.notef(s.file, n.line, "not understood: a loop of more than %d turns", maxTurns)
			return
		}
		s.vars[name] = []arg{v}
		s.list(n.kids, w)
	}
}

func (s *script) pipe(n *node, w when) {
	last := n.kids[len(n.kids)-1]
	if first := n.kids[0]; first.kind == nodeSimple && last.kind == nodeSimple {
		from, to := s.vars.expand(first.words), unwrap(s.vars.expand(last.words))
		if len(from) > 0 && len(to) > 0 && path.Base(to[0].text) == "tee" {
			if value, ok := printed(from); ok {
				for _, file := range to[1:] {
					if !strings.HasPrefix(file.text, "-") {
						s.write(n, file, value, w)
					}
				}
				return
			}
		}
	}
	for i, kid := range n.kids {
		if kid.kind != nodeSimple {
			s.node(kid, w)
			continue
		}
		s.command(kid, w, i > 0 || !s.onlyLooks(n.kids[len(n.kids)-1]))
	}
}
