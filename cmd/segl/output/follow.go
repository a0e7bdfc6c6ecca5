package output

import (
	"encoding/csv"
	"fmt"
	"io"
	"strings"
)

// Follow returns what prints values one at a time as they come, each whole at once: JSON as one object a line, YAML as
// documents, a table with columns that only ever widen.
func Follow[T any](w io.Writer, f Form, view View[T]) func(T) error {
	switch f {
	case JSON:
		return func(v T) error { return writeLine(w, v) }
	case YAML:
		return func(v T) error {
			if _, err := io.WriteString(w, "---\n"); err != nil {
				return err
			}
			return (&yamlPrinter[T]{w: w, arity: single}).print(v)
		}
	case CSV:
		p := &csvPrinter[T]{w: csv.NewWriter(w), columns: view.Columns}
		return func(v T) error {
			if err := p.print(v); err != nil {
				return err
			}
			return p.end()
		}
	case Name:
		return namePrinter[T]{w, view.Name}.print
	default:
		return (&growing[T]{w: w, columns: view.Columns}).print
	}
}

// writeLine writes v as JSON on a line of its own.
func writeLine(w io.Writer, v any) error {
	s, err := encodeJSONLine(v)
	if err != nil {
		return err
	}
	_, err = io.WriteString(w, s)
	return err
}

// growing is a table whose end nobody knows.
type growing[T any] struct {
	w       io.Writer
	columns []Column[T]
	widths  []int
}

func (p *growing[T]) print(v T) error {
	if p.widths == nil {
		p.widths = make([]int, len(p.columns))
		if err := p.row(func(c Column[T]) string { return c.Head }); err != nil {
			return err
		}
	}
	return p.row(func(c Column[T]) string { return oneLine(c.Cell(v)) })
}

func (p *growing[T]) row(cell func(Column[T]) string) error {
	var b strings.Builder
	for i, c := range p.columns {
		s := cell(c)
		if i == len(p.columns)-1 {
			b.WriteString(s)
			break
		}
		if s == "" {
			s = "-"
		}
		p.widths[i] = max(p.widths[i], len(s))
		fmt.Fprintf(&b, "%-*s", p.widths[i]+padding, s) //nolint:errcheck // a builder takes everything
	}
	_, err := fmt.Fprintln(p.w, b.String())
	return err
}
