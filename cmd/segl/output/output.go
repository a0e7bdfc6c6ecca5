// Package output prints answers in the form that a person or a script asked for.
//
// A list is printed as it comes: nothing of it is kept but the rows of a table whose columns are being measured. JSON and
// YAML carry the answer's own members, which are part of the contract; a table is for eyes and may change. The package
// writes to the writer it is given and keeps no state.
package output

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"strings"
	"text/tabwriter"
	"time"

	"go.yaml.in/yaml/v3"
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

// tableChunk is how many rows share their columns' widths: as many as may be kept in memory.
const tableChunk = 1000

type tablePrinter[T any] struct {
	w       *tabwriter.Writer
	columns []Column[T]
	rows    int
}

func (p *tablePrinter[T]) print(v T) error {
	if p.rows == 0 {
		p.row(func(c Column[T]) string { return c.Head })
	}
	p.row(func(c Column[T]) string { return oneLine(c.Cell(v)) })
	if p.rows++; p.rows%tableChunk == 0 {
		return p.w.Flush()
	}
	return nil
}

func (p *tablePrinter[T]) row(cell func(Column[T]) string) {
	for i, c := range p.columns {
		s := cell(c)
		if i == len(p.columns)-1 {
			fmt.Fprintln(p.w, s) //nolint:errcheck // Flush says it
			continue
		}
		if s == "" {
			s = "-" // a hole in a table shifts the eye
		}
		fmt.Fprint(p.w, s, "\t") //nolint:errcheck // Flush says it
	}
}

func (p *tablePrinter[T]) end() error { return p.w.Flush() }

func oneLine(s string) string { return strings.ReplaceAll(s, "\n", " ") }

type csvPrinter[T any] struct {
	w       *csv.Writer
	columns []Column[T]
	begun   bool
}

func (p *csvPrinter[T]) print(v T) error {
	p.head()
	row := make([]string, 0, len(p.columns))
	for _, c := range p.columns {
		row = append(row, oneLine(c.Cell(v)))
	}
	return p.w.Write(row)
}

// head names the columns (RFC 4180 §2.3), also of a list with nothing in it.
func (p *csvPrinter[T]) head() {
	if p.begun {
		return
	}
	p.begun = true
	var heads []string
	for _, c := range p.columns {
		heads = append(heads, strings.ReplaceAll(strings.ToLower(c.Head), " ", "_"))
	}
	p.w.Write(heads) //nolint:errcheck // Flush and Error say it
}

func (p *csvPrinter[T]) end() error {
	p.head()
	p.w.Flush()
	return p.w.Error()
}

type namePrinter[T any] struct {
	w    io.Writer
	name func(T) string
}

func (p namePrinter[T]) print(v T) error {
	_, err := fmt.Fprintln(p.w, p.name(v))
	return err
}

func (namePrinter[T]) end() error { return nil }

type jsonPrinter[T any] struct {
	w     io.Writer
	arity arity
	begun bool
}

func (p *jsonPrinter[T]) print(v T) error {
	before, indent := "", ""
	if p.arity == many {
		before, indent = "[\n  ", "  "
		if p.begun {
			before = ",\n  "
		}
	}
	p.begun = true
	b, err := encodeJSON(v, indent)
	if err != nil {
		return err
	}
	_, err = io.WriteString(p.w, before+strings.TrimSuffix(b, "\n"))
	return err
}

func (p *jsonPrinter[T]) end() error {
	after := "\n"
	switch {
	case p.arity == many && p.begun:
		after = "\n]\n"
	case p.arity == many:
		after = "[]\n"
	}
	_, err := io.WriteString(p.w, after)
	return err
}

// encodeJSON writes v, its lines but the first behind indent.
func encodeJSON(v any, indent string) (string, error) {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent(indent, "  ")
	err := e.Encode(v)
	return b.String(), err
}

type yamlPrinter[T any] struct {
	w     io.Writer
	arity arity
	begun bool
}

// print goes by way of JSON, so that YAML has the same members; JSON is YAML (YAML 1.2.2 §1.3), and reading it as YAML
// keeps the order of members.
func (p *yamlPrinter[T]) print(v T) error {
	p.begun = true
	s, err := encodeJSON(v, "")
	if err != nil {
		return err
	}
	var n yaml.Node
	if err := yaml.Unmarshal([]byte(s), &n); err != nil {
		return err
	}
	plain(&n)
	if p.arity == many {
		n.Content[0] = &yaml.Node{Kind: yaml.SequenceNode, Content: []*yaml.Node{n.Content[0]}}
	}
	e := yaml.NewEncoder(p.w)
	e.SetIndent(padding)
	if err := e.Encode(&n); err != nil {
		return err
	}
	return nil
}

// plain takes off the style that JSON gave.
func plain(n *yaml.Node) {
	n.Style = 0
	if n.Kind == yaml.ScalarNode && strings.Contains(n.Value, "\n") {
		n.Style = yaml.LiteralStyle
	}
	for _, c := range n.Content {
		plain(c)
	}
}

func (p *yamlPrinter[T]) end() error {
	if p.arity == many && !p.begun {
		_, err := io.WriteString(p.w, "[]\n")
		return err
	}
	return nil
}

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
