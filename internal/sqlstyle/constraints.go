package sqlstyle

import (
	"fmt"
	"slices"
)

// constraints are what a table's definition may refuse with. A refusal is read by its constraint's name, so each has
// one of ours (CONSTRAINT name …) and none of Postgres's making.
var constraints = []string{"PRIMARY", "UNIQUE", "FOREIGN", "REFERENCES", "CHECK", "EXCLUDE"}

func unnamedConstraints(words []word) []string {
	var wrong []string
	for _, item := range items(words) {
		named := slices.ContainsFunc(item, func(w word) bool { return w.text == "CONSTRAINT" })
		at := slices.IndexFunc(item, func(w word) bool { return slices.Contains(constraints, w.text) })
		if at >= 0 && !named {
			wrong = append(wrong, fmt.Sprintf("%d: %s: name the constraint", item[at].line, item[at].text))
		}
	}
	return wrong
}

// items returns the columns and constraints of every CREATE TABLE and ALTER TABLE among words.
func items(words []word) [][]word {
	var found [][]word
	for i := 1; i < len(words); i++ {
		if words[i].text != "TABLE" {
			continue
		}
		switch words[i-1].text {
		case "CREATE", "UNLOGGED": // a definition stands in parentheses
			found = append(found, split(words[i:], words[i].depth+1)...)
		case "ALTER":
			found = append(found, split(words[i:], words[i].depth)...)
		}
	}
	return found
}

// split cuts the statement that words begin with at the commas of one depth. What stands deeper is left out: the
// expression of a CHECK makes no constraint.
func split(words []word, depth int) [][]word {
	var found [][]word
	var item []word
	for _, w := range words {
		switch {
		case w.statement != words[0].statement:
			return append(found, item)
		case w.depth == depth && w.text == ",":
			found, item = append(found, item), nil
		case w.depth == depth:
			item = append(item, w)
		}
	}
	return append(found, item)
}
