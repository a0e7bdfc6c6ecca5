// Package output prints answers in the form that a person or a script asked for.
//
// A list is printed as it comes: nothing of it is kept but the rows of a table whose columns are being measured. JSON and
// YAML carry the answer's own members, which are part of the contract; a table is for eyes and may change. The package
// writes to the writer it is given and keeps no state.
package output

import (
	"encoding/csv"
	"fmt"
	"io"
	"iter"
	"strings"
	"text/tabwriter"
	"time"
)

// A Form is how an answer is printed.
type Form string

// The forms.
const (
	Table Form = "table"
	JSON  Form = "json"
	YAML  Form = "yaml"
	CSV   Form = "csv"
	Name  Form = "name"
)

// Forms are all of them, the default first.
var Forms = []string{string(Table), string(JSON), string(YAML), string(CSV), string(Name)}

// Set implements pflag.Value.
func (f *Form) Set(s string) error {
	for _, known := range Forms {
		if s == known {
			*f = Form(s)
			return nil
		}
	}
	return fmt.Errorf("want one of %s", strings.Join(Forms, ", "))
}

// String implements pflag.Value.
func (f *Form) String() string { return string(*f) }

// Type implements pflag.Value.
func (*Form) Type() string { return strings.Join(Forms, "|") }

// A Column is one property of a T as people read it.
type Column[T any] struct {
	Head string // upper-case, in lists; lower-case, before the value of a single T
	Cell func(T) string
}

// A View says how a T looks.
type View[T any] struct {
	Name    func(T) string // the one word by which other commands take it
	Columns []Column[T]    // of lists
	Details []Column[T]    // of a single T; nil means Columns. An empty cell leaves its line out; a cell may have several lines
}

// One prints v.
func One[T any](w io.Writer, f Form, v T, view View[T]) error {
	if f != Table {
		return write(w, f, view, func(yield func(T, error) bool) { yield(v, nil) }, single)
	}
	details := view.Details
	if details == nil {
		details = view.Columns
	}
	t := tabwriter.NewWriter(w, 0, 0, padding, ' ', 0)
	for _, c := range details {
		head := strings.ToLower(c.Head) + ":"
		cell := c.Cell(v)
		if cell == "" {
			continue
		}
		for line := range strings.SplitSeq(cell, "\n") {
			fmt.Fprintf(t, "%s\t%s\n", head, line) //nolint:errcheck // Flush says it
			head = ""
		}
	}
	return t.Flush()
}

// List prints every T of seq, until the first error, which it returns.
func List[T any](w io.Writer, f Form, seq iter.Seq2[T, error], view View[T]) error {
	return write(w, f, view, seq, many)
}

// An arity says whether an answer is one thing or a list.
type arity uint8

const (
	single arity = iota
	many
)

func write[T any](w io.Writer, f Form, view View[T], seq iter.Seq2[T, error], n arity) error {
	var p printer[T]
	switch f {
	case JSON:
		p = &jsonPrinter[T]{w: w, arity: n}
	case YAML:
		p = &yamlPrinter[T]{w: w, arity: n}
	case CSV:
		p = &csvPrinter[T]{w: csv.NewWriter(w), columns: view.Columns}
	case Name:
		p = namePrinter[T]{w, view.Name}
	default:
		p = &tablePrinter[T]{w: tabwriter.NewWriter(w, 0, 0, padding, ' ', 0), columns: view.Columns}
	}
	for v, err := range seq {
		if err == nil {
			err = p.print(v)
		}
		if err != nil {
			return err
		}
	}
	return p.end()
}

// A printer prints values one at a time.
type printer[T any] interface {
	print(v T) error
	end() error
}

const padding = 2

// Until says how far t is from now, as people do: "in 6h", "3d ago".
func Until(now, t time.Time) string {
	d := t.Sub(now)
	if d < 0 {
		return about(-d) + " ago"
	}
	return "in " + about(d)
}

func about(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d >= 2*day:
		return fmt.Sprintf("%dd", d/day)
	case d >= 2*time.Hour:
		return fmt.Sprintf("%dh", d/time.Hour)
	case d >= 2*time.Minute:
		return fmt.Sprintf("%dm", d/time.Minute)
	}
	return fmt.Sprintf("%ds", d/time.Second)
}
