package layers_test

import (
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/mod/modfile"

	"codeberg.org/dataverket/segl/internal/layers"
)

// docs/dependencies.md says why each module is here; it lists what is imported, at the version that go.mod pins, and
// nothing else.
func TestDependenciesPageListsWhatIsImported(t *testing.T) {
	want := importedModules(t)
	page, err := os.ReadFile("../../docs/dependencies.md")
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, row := range regexp.MustCompile("(?m)^\\| `([^`]+)` \\| ([^ ]+) \\| .+ \\| .+ \\|$").FindAllStringSubmatch(string(page), -1) {
		got[row[1]] = row[2]
	}
	for _, module := range slices.Sorted(maps.Keys(want)) {
		if got[module] != want[module] {
			t.Errorf("docs/dependencies.md has %s at %q; it is imported at %s: say its one job and why this one", module, got[module], want[module])
		}
	}
	for _, module := range slices.Sorted(maps.Keys(got)) {
		if want[module] == "" {
			t.Errorf("docs/dependencies.md has %s, which nothing imports", module)
		}
	}
}

// importedModules returns the version of each module that our code, tests included, imports itself.
func importedModules(t *testing.T) map[string]string {
	t.Helper()
	data, err := os.ReadFile("../../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	mod, err := modfile.Parse("go.mod", data, nil)
	if err != nil {
		t.Fatal(err)
	}
	imported := map[string]string{}
	err = layers.WalkGo(os.DirFS("../.."), func(name string, source []byte) error {
		imports, err := layers.FileImports(name, source)
		for _, path := range imports {
			if strings.HasPrefix(path, module) {
				continue
			}
			var holder modfile.Require
			for _, required := range mod.Require { // the longest path that fits holds the package
				if strings.HasPrefix(path+"/", required.Mod.Path+"/") && len(required.Mod.Path) > len(holder.Mod.Path) {
					holder = *required
				}
			}
			if holder.Mod.Path == "" {
				t.Errorf("%s imports %s, which go.mod does not require", name, path)
				continue
			}
			imported[holder.Mod.Path] = holder.Mod.Version
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return imported
}
