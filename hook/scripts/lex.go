package scripts

import (
	"fmt"
	"strings"
)

// A token is a word of a shell script as it is written, an operator, or the end of a line.
type token struct {
	kind tokenKind
	text string
	line int
}

type tokenKind int

const (
	tokenEnd tokenKind = iota
	tokenWord
	tokenOperator // also redirections, with their descriptor in front: "2>"
	tokenNewline
)

// A syntaxError is where a script stops to be one that is understood.
type syntaxError struct {
	line int
	what string
}

func (e *syntaxError) Error() string { return fmt.Sprintf("line %d: %s", e.line, e.what) }

// lexer cuts a script into tokens. It knows of quotes, comments, continuation lines, substitutions as a whole, and
// documents in the script; it is not to tell right scripts from wrong ones.
type lexer struct {
	src  string
	at   int
	line int
	// here are the delimiters of documents that begin on the next line.
	here []string
}

const blanks = " \t\r"

// tokens returns all of a script's tokens; with an error, those before it.
func tokens(src string, line int) ([]token, error) {
	l := &lexer{src: src, line: line}
	var all []token
	for {
		t, err := l.next()
		if err != nil {
			return append(all, token{kind: tokenEnd, line: l.line}), err
		}
		all = append(all, t)
		if t.kind == tokenEnd {
			return all, nil
		}
		if n := len(all); n > 1 && t.kind == tokenWord && all[n-2].kind == tokenOperator && begins(all[n-2].text) {
			l.here = append(l.here, strings.Trim(t.text, `"'\`))
		}
	}
}

// begins reports whether an operator begins a document on the next line.
func begins(op string) bool {
	op = strings.TrimLeft(op, "0123456789")
	return op == "<<" || op == "<<-"
}

func (l *lexer) next() (token, error) {
	for l.at < len(l.src) {
		switch {
		case strings.HasPrefix(l.src[l.at:], "\\\n"):
			l.at += 2
			l.line++
			continue
		case strings.IndexByte(blanks, l.src[l.at]) >= 0:
			l.at++
			continue
		case l.src[l.at] == '#':
			end := strings.IndexByte(l.src[l.at:], '\n')
			if end < 0 {
				end = len(l.src) - l.at
			}
			l.at += end
			continue
		}
		break
	}
	t := token{line: l.line}
	if l.at == len(l.src) {
		return t, nil
	}
	if l.src[l.at] == '\n' {
		l.at++
		l.line++
		l.skipDocuments()
		t.kind = tokenNewline
		return t, nil
	}
	if op := l.operator(); op != "" && !strings.HasPrefix(l.src[l.at:], "((") {
		l.at += len(op)
		t.kind, t.text = tokenOperator, op
		return t, nil
	}
	start := l.at
	if err := l.word(); err != nil {
		return t, err
	}
	t.kind, t.text = tokenWord, l.src[start:l.at]
	return t, nil
}

// operators are those that matter, the longer ones first.
func operators() []string {
	return []string{
		"&>>", "<<<", "<<-", ";;&", "&&", "||", ";;", ";&", "|&", "&>", ">>", ">&", ">|", "<<", "<&", "<>", ";", "|", "&", ">", "<", "(", ")",
	}
}

// operator returns the operator that stands here, "" if none does.
func (l *lexer) operator() string {
	rest := l.src[l.at:]
	digits := len(rest) - len(strings.TrimLeft(rest, "0123456789"))
	for _, op := range operators() {
		if strings.HasPrefix(rest[digits:], op) {
			if digits > 0 && op[0] != '<' && op[0] != '>' {
				return ""
			}
			if (op == "<" || op == ">") && strings.HasPrefix(rest[digits+1:], "(") {
				return "" // the name of a pipe
			}
			return rest[:digits+len(op)]
		}
	}
	return ""
}

// skipDocuments passes over the documents that begin on this line.
func (l *lexer) skipDocuments() {
	for _, end := range l.here {
		for l.at < len(l.src) {
			line, rest, _ := strings.Cut(l.src[l.at:], "\n")
			l.at = len(l.src) - len(rest)
			l.line++
			if strings.TrimLeft(strings.TrimRight(line, blanks), "\t") == end {
				break
			}
		}
	}
	l.here = nil
}

// word passes over a word.
func (l *lexer) word() error {
	for start := l.at; l.at < len(l.src); {
		switch c := l.src[l.at]; c {
		case ' ', '\t', '\r', '\n', ';', '&', '|', ')':
			return nil
		case '<', '>':
			if !strings.HasPrefix(l.src[l.at+1:], "(") || l.at > start {
				return nil
			}
			l.at++
			if err := l.parentheses(); err != nil {
				return err
			}
		case '(':
			// A list of values or a sum; not the parentheses of a function, or those around commands.
			if l.at > start && l.src[l.at-1] != '=' || l.at == start && !strings.HasPrefix(l.src[l.at:], "((") {
				return nil
			}
			if err := l.parentheses(); err != nil {
				return err
			}
		default:
			if err := l.piece(); err != nil {
				return err
			}
		}
	}
	return nil
}

// piece passes over a character, or over what belongs together.
func (l *lexer) piece() error {
	switch c := l.src[l.at]; {
	case c == '\\' && l.at+1 < len(l.src):
		if l.src[l.at+1] == '\n' {
			l.line++
		}
		l.at += 2
	case c == '\'' || c == '`':
		end := strings.IndexByte(l.src[l.at+1:], c)
		if end < 0 {
			return &syntaxError{l.line, fmt.Sprintf("a %c that is never closed", c)}
		}
		l.line += strings.Count(l.src[l.at:l.at+end+2], "\n")
		l.at += end + 2
	case c == '"':
		return l.quoted()
	case c == '$' && strings.HasPrefix(l.src[l.at+1:], "("):
		l.at++
		return l.parentheses()
	case c == '$' && strings.HasPrefix(l.src[l.at+1:], "{"):
		end := strings.IndexByte(l.src[l.at:], '}')
		if end < 0 {
			return &syntaxError{l.line, "a ${ that is never closed"}
		}
		l.line += strings.Count(l.src[l.at:l.at+end], "\n")
		l.at += end + 1
	default:
		if c == '\n' {
			l.line++
		}
		l.at++
	}
	return nil
}

func (l *lexer) quoted() error {
	line := l.line
	for l.at++; l.at < len(l.src); {
		switch l.src[l.at] {
		case '"':
			l.at++
			return nil
		case '\'':
			l.at++
		default:
			if err := l.piece(); err != nil {
				return err
			}
		}
	}
	return &syntaxError{line, `a " that is never closed`}
}

// maxDepth bounds what lies inside one another.
const maxDepth = 40

func (l *lexer) parentheses() error {
	line := l.line
	depth := 0
	for l.at < len(l.src) {
		switch l.src[l.at] {
		case '(':
			depth++
			l.at++
		case ')':
			depth--
			l.at++
			if depth == 0 {
				return nil
			}
		default:
			if err := l.piece(); err != nil {
				return err
			}
		}
	}
	return &syntaxError{line, "a ( that is never closed"}
}
