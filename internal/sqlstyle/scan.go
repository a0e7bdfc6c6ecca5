package sqlstyle

import (
	"strings"
	"unicode"
)

// A word is an identifier, a keyword, a number or one sign. Comments, and what stands in quotes, are passed over; the
// body of a function ($$ … $$) is read like the rest.
type word struct {
	text      string
	line      int
	depth     int  // of parentheses around it
	statement int  // which one it stands in, counted by semicolons
	first     bool // on its line
	spread    bool // what it is a clause of takes several lines
}

func scan(sql string) []word {
	var words []word
	line, depth, statement, first := 1, 0, 0, true
	for len(sql) > 0 {
		n := blank(sql)
		if n > 0 {
			if newlines := strings.Count(sql[:n], "\n"); newlines > 0 {
				line, first = line+newlines, true
			}
			sql = sql[n:]
			continue
		}
		n = length(sql)
		w := word{text: sql[:n], line: line, depth: depth, statement: statement, first: first}
		sql, first = sql[n:], false
		switch w.text {
		case "(":
			depth++
		case ")":
			depth--
			w.depth = depth
		case ";":
			statement++
		}
		words = append(words, w)
	}
	spread(words)
	return words
}

// blank returns how many bytes at the start of sql say nothing: space, a comment, or something quoted.
func blank(sql string) int {
	switch {
	case strings.ContainsRune(" \t\r\n", rune(sql[0])):
		return 1
	case strings.HasPrefix(sql, "--"):
		return end(sql, 2, "\n") - 1
	case strings.HasPrefix(sql, "/*"):
		return end(sql, 2, "*/")
	case sql[0] == '\'', sql[0] == '"': // a doubled quote inside is read as two strings side by side
		return end(sql, 1, sql[:1])
	case strings.HasPrefix(sql, "$$"):
		return 2
	default:
		return 0
	}
}

// end returns where the first mark after from ends, or one past the end of sql where there is none and a line's end
// would do.
func end(sql string, from int, mark string) int {
	i := strings.Index(sql[from:], mark)
	switch {
	case i >= 0:
		return from + i + len(mark)
	case mark == "\n":
		return len(sql) + 1
	default:
		return len(sql)
	}
}

// length returns how long the word at the start of sql is. @name and $1 are one word, so that they are no keyword.
func length(sql string) int {
	for i, r := range sql {
		if r != '_' && !unicode.IsLetter(r) && !unicode.IsDigit(r) && (i > 0 || (r != '@' && r != '$' && r != ':')) {
			return max(i, 1)
		}
	}
	return len(sql)
}

// spread marks the words of what takes several lines: a statement, or one inside another (a query in parentheses, the
// SELECT after INSERT INTO, the last statement after WITH).
func spread(words []word) {
	var open []int // per pair of parentheses around: where what was being read outside them began
	mark := func(from, to int) {
		if from >= to || words[from].line == words[to-1].line {
			return
		}
		for i := from; i < to; i++ {
			words[i].spread = words[i].spread || words[i].depth == words[from].depth
		}
	}
	from := 0
	for i, w := range words {
		switch w.text {
		case "(":
			open = append(open, from)
			from = i + 1
		case ")":
			mark(from, i)
			if len(open) > 0 {
				from, open = open[len(open)-1], open[:len(open)-1]
			}
		case ";":
			mark(from, i)
			from = i + 1
		case "SELECT", "INSERT", "DELETE", "UNION":
			mark(from, i)
			from = i
		}
	}
	mark(from, len(words))
}
