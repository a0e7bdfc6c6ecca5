package sqlstyle

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"regexp"
	"strconv"
)

// A Literal is one string of Go code that holds SQL.
type Literal struct {
	SQL  string
	Line int // where in the file it begins
}

// statement is what SQL begins with, and sentences about it seldom.
var statement = regexp.MustCompile(`^\s*(SELECT\s|(?is:select\s.+\sfrom\s|insert\s+into\s|update\s+\S+\s+set\s|delete\s+from\s|` +
	`with\s+(recursive\s+)?\w+\s+as\s|(create|alter|drop)\s+(unlogged\s+)?(table|index|role|database|function)\s))`)

// Literals returns the SQL in one file of Go code. What is put together from pieces is seen a piece at a time.
func Literals(name string, source []byte) ([]Literal, error) {
	files := token.NewFileSet()
	file, err := parser.ParseFile(files, name, source, parser.SkipObjectResolution)
	if err != nil {
		return nil, fmt.Errorf("parsing Go: %w", err)
	}
	var found []Literal
	ast.Inspect(file, func(node ast.Node) bool {
		literal, ok := node.(*ast.BasicLit)
		if !ok || literal.Kind != token.STRING {
			return true
		}
		if text, err := strconv.Unquote(literal.Value); err == nil && statement.MatchString(text) {
			found = append(found, Literal{SQL: text, Line: files.Position(literal.Pos()).Line})
		}
		return true
	})
	return found, nil
}
