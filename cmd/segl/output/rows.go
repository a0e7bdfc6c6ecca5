package output

import (
	"encoding/csv"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

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
