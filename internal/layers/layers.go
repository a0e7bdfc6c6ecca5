// Package layers says which package may import which, and finds the ones that do otherwise.
//
// Arrows point inward: wiring → doors → adapters → domains → pure words, and plumbing serves whoever owns I/O. [Table] is
// the whole rule, one row a package; a new package begins with its row. Only what the program is made of is judged: test
// files may import anything, and a package that only tests import ([Testing]) stays out of the program.
//
// It reads source rather than asking the go command, so every build tag is seen. Nothing here runs outside tests.
package layers

import (
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
)

// A Layer is how far from the outside world a package stands.
type Layer int

// From the inside out.
const (
	Pure     Layer = iota // values and rules; no I/O, no state
	Domain                // what is decided, and in which order it becomes durable
	Plumbing              // what adapters and doors stand on: Postgres, leases, HTTP, the audit trail
	Adapter               // a domain's words spoken to one outside thing
	Door                  // HTTP in, one domain method, HTTP out
	Wiring                // the program
	Testing               // what only tests import; it may import anything
)

// Anything in a row's Inside lets the package import every package of the module's program.
const Anything = "..."

// A Row is what one package may import beside the standard library. Inside names packages of this module, Outside
// names other modules' packages; a name of Outside covers what is below it.
type Row struct {
	Layer   Layer
	Inside  []string
	Outside []string
}

func (r Row) allows(imported, module string, table map[string]Row) bool {
	if r.Layer == Testing {
		return true
	}
	if inside, ok := within(imported, module); ok {
		return slices.Contains(r.Inside, inside) || slices.Contains(r.Inside, Anything) && table[inside].Layer != Testing
	}
	return slices.ContainsFunc(r.Outside, func(root string) bool {
		_, ok := within(imported, root)
		return ok
	})
}

// within returns what of path is below root, and whether path is root or below it.
func within(path, root string) (rest string, ok bool) {
	rest, ok = strings.CutPrefix(path, root)
	return strings.TrimPrefix(rest, "/"), ok && (rest == "" || rest[0] == '/')
}

// Check compares the module in tree with the table, and returns one sentence for each thing that differs: an import
// that no row allows, a package without a row, a row without a package.
func Check(tree fs.FS, module string, table map[string]Row) ([]string, error) {
	imports, err := Imports(tree)
	if err != nil {
		return nil, err
	}
	var wrong []string
	for _, name := range slices.Sorted(maps.Keys(imports)) {
		row, ok := table[name]
		if !ok {
			wrong = append(wrong, fmt.Sprintf("%s has no row: say in internal/layers/table.go what it may import", name))
			continue
		}
		for _, imported := range imports[name] {
			if !row.allows(imported, module, table) {
				wrong = append(wrong, fmt.Sprintf("%s imports %s: its row does not allow that", name, imported))
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(table)) {
		if _, ok := imports[name]; !ok {
			wrong = append(wrong, fmt.Sprintf("%s has a row and no code: take the row out", name))
		}
	}
	return wrong, nil
}
