// Package sqlstyle finds SQL that is not written as CONTRIBUTING.md says: in migrations, and in the string literals of
// Go code.
//
// It reads words, not grammar: reserved words are upper-case, each clause begins its line, columns are named, every
// constraint has a name. It knows nothing of what a statement means; Postgres does, in the tests of the packages that
// run it. Nothing here runs outside tests, and everything may be called concurrently.
package sqlstyle

import (
	"fmt"
	"slices"
	"strings"
)

// Check returns one sentence, beginning with the line's number, for each thing in a statement, or several, that is not
// as it should be.
func Check(sql string) []string {
	var wrong []string
	lines := strings.Split(sql, "\n")
	for n, line := range lines[:len(lines)-1] { // the last may be half of one
		if strings.TrimRight(line, " \t") != line {
			wrong = append(wrong, fmt.Sprintf("%d: blanks at the end of the line", n+1))
		}
	}
	words := scan(sql)
	for _, rule := range []func([]word) []string{lowerCase, crowdedClauses, unnamedColumns, unnamedConstraints} {
		wrong = append(wrong, rule(words)...)
	}
	return wrong
}

// reserved can be no identifier's name unquoted, so it is a keyword wherever it stands
// (https://www.postgresql.org/docs/current/sql-keywords-appendix.html), save true and false, which are values.
var reserved = strings.Fields(`all and any array as asc between by case check constraint create cross default delete desc
	distinct else end except exists for foreign from full group having in inner insert intersect into is join lateral left
	like limit not null offset on or order outer primary references returning right select then union unique update using
	when where with`)

func lowerCase(words []word) []string {
	var wrong []string
	for _, w := range words {
		if upper := strings.ToUpper(w.text); w.text != upper && slices.Contains(reserved, strings.ToLower(w.text)) {
			wrong = append(wrong, fmt.Sprintf("%d: %s: write %s", w.line, w.text, upper))
		}
	}
	return wrong
}

// clauses begin their line, unless all of what they are a clause of is on it.
var clauses = []string{"FROM", "WHERE", "GROUP", "HAVING", "ORDER", "LIMIT", "RETURNING", "SET", "VALUES"}

func crowdedClauses(words []word) []string {
	var wrong []string
	for i, w := range words {
		if w.first || !slices.Contains(clauses, w.text) || !w.spread || ofAnotherClause(words[:i], w) {
			continue
		}
		wrong = append(wrong, fmt.Sprintf("%d: %s begins a clause: begin a line with it", w.line, w.text))
	}
	return wrong
}

// ofAnotherClause reports whether the words before w make it no clause of its own.
func ofAnotherClause(before []word, w word) bool {
	if len(before) == 0 {
		return true
	}
	switch last := before[len(before)-1].text; w.text {
	case "FROM": // DELETE FROM, IS DISTINCT FROM, FOR VALUES FROM
		return last == "DELETE" || last == "DISTINCT" || last == "VALUES"
	case "SET": // DO UPDATE SET, ALTER … SET
		return last == "UPDATE" || begins(before, w, "ALTER")
	case "VALUES": // FOR VALUES
		return last == "FOR"
	default:
		return false
	}
}

// begins reports whether the line that w stands on begins with text.
func begins(before []word, w word, text string) bool {
	for _, b := range slices.Backward(before) {
		if b.line != w.line {
			break
		}
		if b.first {
			return b.text == text
		}
	}
	return false
}

func unnamedColumns(words []word) []string {
	var wrong []string
	for i, star := range words {
		if star.text != "*" || i == 0 {
			continue
		}
		switch before := words[i-1].text; {
		case before == "SELECT", before == "RETURNING", before == "." && i > 1 && !namesColumns(words, words[i-2].text):
			wrong = append(wrong, fmt.Sprintf("%d: *: name the columns", star.line))
		}
	}
	return wrong
}

// namesColumns reports whether a statement says itself what a's columns are, as in unnest(…) AS a (serial, at).
func namesColumns(words []word, a string) bool {
	for i := 2; i < len(words); i++ {
		if words[i-2].text == "AS" && words[i-1].text == a && words[i].text == "(" {
			return true
		}
	}
	return false
}
