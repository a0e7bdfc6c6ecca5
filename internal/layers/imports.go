package layers

import (
	"fmt"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
)

// Imports returns, for each package of the module in tree, what its code imports beside the standard library: by
// directory, sorted, each import once. Test files do not count; a package that has only those imports nothing.
func Imports(tree fs.FS) (map[string][]string, error) {
	found := map[string][]string{}
	err := WalkGo(tree, func(name string, source []byte) error {
		dir := path.Dir(name)
		found[dir] = append(found[dir], nil...) // the package is there, whatever it imports
		if strings.HasSuffix(name, "_test.go") {
			return nil
		}
		imports, err := FileImports(name, source)
		found[dir] = append(found[dir], imports...)
		return err
	})
	if err != nil {
		return nil, err
	}
	for dir, imports := range found {
		slices.Sort(imports)
		found[dir] = slices.Compact(imports)
	}
	return found, nil
}

// WalkGo calls visit for each Go file of the module in tree: not for testdata, nor what the go command passes over,
// nor a module inside this one. It stops at the first error.
func WalkGo(tree fs.FS, visit func(name string, source []byte) error) error {
	return fs.WalkDir(tree, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return fmt.Errorf("reading %s: %w", name, err)
		}
		if entry.IsDir() {
			return passOver(tree, name)
		}
		if path.Ext(name) != ".go" {
			return nil
		}
		source, err := fs.ReadFile(tree, name)
		if err != nil {
			return fmt.Errorf("reading %s: %w", name, err)
		}
		return visit(name, source)
	})
}

func passOver(tree fs.FS, dir string) error {
	base := path.Base(dir)
	if dir == "." {
		return nil
	}
	if base == "testdata" || base[0] == '.' || base[0] == '_' {
		return fs.SkipDir
	}
	if _, err := fs.Stat(tree, path.Join(dir, "go.mod")); err == nil {
		return fs.SkipDir
	}
	return nil
}

// FileImports returns what one Go file imports beside the standard library, whose paths alone begin with an element that
// has no dot.
func FileImports(name string, source []byte) ([]string, error) {
	file, err := parser.ParseFile(token.NewFileSet(), name, source, parser.ImportsOnly)
	if err != nil {
		return nil, fmt.Errorf("parsing imports: %w", err)
	}
	var imports []string
	for _, spec := range file.Imports {
		imported, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			return nil, fmt.Errorf("parsing imports of %s: %w", name, err)
		}
		if first, _, _ := strings.Cut(imported, "/"); strings.Contains(first, ".") {
			imports = append(imports, imported)
		}
	}
	return imports, nil
}
