package layers_test

import (
	"os"
	"path"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"codeberg.org/dataverket/segl/internal/layers"
)

const module = "codeberg.org/dataverket/segl"

func TestModuleKeepsToTheTable(t *testing.T) {
	wrong, err := layers.Check(os.DirFS("../.."), module, layers.Table())
	if err != nil {
		t.Fatal(err)
	}
	for _, sentence := range wrong {
		t.Error(sentence)
	}
}

// The table may not say what the design forbids, however convenient.
func TestTablePointsInward(t *testing.T) {
	table := layers.Table()
	for name, row := range table {
		for _, inside := range row.Inside {
			if _, ok := table[inside]; !ok && inside != layers.Anything {
				t.Errorf("%s may import %s, which has no row", name, inside)
			}
			if inside != layers.Anything && !mayPoint(row.Layer, table[inside].Layer) {
				t.Errorf("%s may import %s: that arrow does not point inward", name, inside)
			}
		}
	}
}

// mayPoint: domains know no plumbing; adapters and doors never one another, save that a door uses its domain's own
// adapters, which TestDoorsStayInTheirHouse keeps to.
func mayPoint(from, to layers.Layer) bool {
	switch from {
	case layers.Pure:
		return to == layers.Pure
	case layers.Domain:
		return to <= layers.Domain
	case layers.Plumbing:
		return to == layers.Pure || to == layers.Plumbing
	case layers.Adapter:
		return to <= layers.Plumbing
	case layers.Door:
		return to <= layers.Adapter
	default:
		return to <= layers.Wiring
	}
}

func TestDoorsStayInTheirHouse(t *testing.T) {
	table := layers.Table()
	for name, row := range table {
		if row.Layer != layers.Door {
			continue
		}
		house := path.Dir(name)
		for _, inside := range row.Inside {
			to := table[inside]
			if to.Layer == layers.Adapter && !strings.HasPrefix(inside, house+"/") {
				t.Errorf("%s may import %s: another domain's adapter", name, inside)
			}
			if inside != house && slices.ContainsFunc(to.Outside, isPostgres) {
				t.Errorf("%s may import %s, which writes SQL: a door calls its domain", name, inside)
			}
		}
	}
}

func TestOnlyOutsideLayersKnowTheirLibraries(t *testing.T) {
	for name, row := range layers.Table() {
		for _, library := range row.Outside {
			if strings.HasPrefix(library, "github.com/labstack/echo") && row.Layer != layers.Door && name != "internal/web" {
				t.Errorf("%s may import %s: only doors and internal/web know it", name, library)
			}
			if isPostgres(library) && row.Layer < layers.Plumbing {
				t.Errorf("%s may import %s: domains know no database", name, library)
			}
			if strings.HasPrefix(library, "github.com/spf13/") && row.Layer != layers.Wiring {
				t.Errorf("%s may import %s: only the program has a command line", name, library)
			}
		}
	}
}

func isPostgres(library string) bool { return strings.HasPrefix(library, "github.com/jackc/pgx") }

func TestCheckFindsWhatDiffers(t *testing.T) {
	table := map[string]layers.Row{
		"a": {Layer: layers.Pure},
		"b": {Layer: layers.Domain, Inside: []string{"a"}, Outside: []string{"example.com/lib"}},
		"m": {Layer: layers.Wiring, Inside: []string{layers.Anything}},
		"t": {Layer: layers.Testing},
	}
	good := map[string]string{
		"a/a.go":             `package a; import "fmt"`,
		"a/a_test.go":        `package a_test; import "example.org/whatever"`,
		"a/testdata/x/x.go":  `package x; import "example.org/whatever"`,
		"b/b.go":             `package b; import ("segl.test/a"; "example.com/lib/sub")`,
		"m/m.go":             `package main; import ("segl.test/a"; "segl.test/b")`,
		"t/t.go":             `package t; import ("segl.test/m"; "example.org/whatever")`,
		"interop/go.mod":     `module segl.test/interop`,
		"interop/interop.go": `package interop; import "example.org/whatever"`,
	}
	for _, row := range []struct{ name, file, source, want string }{
		{"nothing", "", "", ""},
		{"an arrow outward", "a/more.go", `package a; import "segl.test/b"`, "a imports segl.test/b: its row does not allow that"},
		{"a library not asked for", "a/more.go", `package a; import "example.com/lib"`, "a imports example.com/lib: its row does not allow that"},
		{"a library with a longer name", "b/more.go", `package b; import "example.com/library"`, "b imports example.com/library: its row does not allow that"},
		{"an import under a build tag", "a/more.go", "//go:build pkcs11\n\npackage a\nimport \"segl.test/b\"", "a imports segl.test/b: its row does not allow that"},
		{"a test's package in the program", "m/more.go", `package main; import "segl.test/t"`, "m imports segl.test/t: its row does not allow that"},
		{"a package without a row", "c/c.go", `package c`, "c has no row: say in internal/layers/table.go what it may import"},
		{"a package of tests without a row", "c/c_test.go", `package c_test`, "c has no row: say in internal/layers/table.go what it may import"},
	} {
		t.Run(row.name, func(t *testing.T) {
			tree := fstest.MapFS{}
			for name, source := range good {
				tree[name] = &fstest.MapFile{Data: []byte(source)}
			}
			if row.file != "" {
				tree[row.file] = &fstest.MapFile{Data: []byte(row.source)}
			}
			wrong, err := layers.Check(tree, "segl.test", table)
			if got := strings.Join(wrong, "; "); err != nil || got != row.want {
				t.Errorf("got %q, %v; want %q", got, err, row.want)
			}
		})
	}
}

func TestCheckRefusesARowWithoutCode(t *testing.T) {
	table := map[string]layers.Row{"a": {}, "gone": {}}
	tree := fstest.MapFS{"a/a.go": {Data: []byte(`package a`)}}
	wrong, err := layers.Check(tree, "segl.test", table)
	if want := "gone has a row and no code: take the row out"; err != nil || len(wrong) != 1 || wrong[0] != want {
		t.Errorf("got %q, %v; want %q", wrong, err, want)
	}
}

func TestCheckReportsSourceItCannotRead(t *testing.T) {
	tree := fstest.MapFS{"a/a.go": {Data: []byte(`not go`)}}
	if _, err := layers.Check(tree, "segl.test", nil); err == nil || !strings.Contains(err.Error(), "a/a.go") {
		t.Errorf("got %v; want an error that names the file", err)
	}
}
