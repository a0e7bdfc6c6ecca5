package main

import (
	"bytes"
	"context"
	_ "embed"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"text/template"
	"time"

	"github.com/jackc/pgx/v5"
)

// A row is a measured operation.
type row struct {
	operation
	outcome
	used   usage
	stored float64 // octets of database an operation
}

// warmed is how many operations ran before those that count.
func (r row) warmed() int {
	switch r.kind {
	case kindBatch:
		return r.warm * batchSize
	case kindRenew, kindRenewOpen:
		return r.warm + r.warm + r.Done // each renewal had a certificate issued first
	}
	return r.warm
}

func (r row) measured() bool { return r.Absent == "" && r.Done > 0 }

// rate is operations a second.
func (r row) rate() float64 { return float64(r.Done) / r.Elapsed.Seconds() }

// cpu is what one operation took of the processors.
func (r row) cpu() float64 { return float64(r.used.total()) / float64(r.Done) }

// A figure is a measured thing that is no operation.
type figure struct{ Name, Value, Bar, Verdict string }

// A page is everything a run has to tell.
type page struct {
	Date, CPU, Go, Postgres string
	Cores                   int
	LoadBefore, LoadAfter   string
	Unit, UnitHigh          time.Duration
	Figures                 []figure

	rows []row
}

func (p *page) begin() {
	p.Date, p.Go, p.Cores = time.Now().UTC().Format(time.DateOnly), runtime.Version(), runtime.NumCPU()
	p.CPU, p.LoadBefore = processor(), loadAverage()
}

// end computes the run's S: the lowest of its medians. Whatever else runs on the machine, the load itself among it, only
// makes a signature dearer, so costs come out too high rather than too low.
func (p *page) end(units []time.Duration) {
	p.LoadAfter = loadAverage()
	p.Unit, p.UnitHigh = slices.Min(units), slices.Max(units)
	for _, r := range p.rows {
		if r.kind == kindIssue && r.Absent == "" {
			p.figure("database for one certificate", fmt.Sprintf("%.0f octets", r.stored), "≤ 1200 octets", verdict(r.stored, barOctets))
		}
	}
}

// figure adds a figure. Without a bar it has no verdict.
func (p *page) figure(name, value, bar, verdict string) {
	p.Figures = append(p.Figures, figure{name, value, bar, verdict})
}

// verdict compares what was measured with what it must not exceed.
func verdict(got, most float64) string {
	if got <= most {
		return "met"
	}
	return "missed"
}

// describe notes what the database is, and refuses one that acknowledges what it has not written.
func (p *page) describe(ctx context.Context, db *pgx.Conn) error {
	var flush, commit string
	err := db.QueryRow(ctx, `
		SELECT current_setting('server_version'), current_setting('fsync'), current_setting('synchronous_commit')`).
		Scan(&p.Postgres, &flush, &commit)
	if err != nil {
		return fmt.Errorf("asking what the database is: %w", err)
	}
	p.Postgres, _, _ = strings.Cut(p.Postgres, " ")
	if flush != "on" || commit == "off" {
		return fmt.Errorf("fsync is %s and synchronous_commit %s: want commits that are durable", flush, commit)
	}
	return nil
}

// A line is a row as it is told.
type line struct{ Name, Cost, Server, Database, Bar, Goal, Rate, P50, P95, P99, Stored, Note string }

// Lines are our rows, with their costs in S.
func (p *page) Lines() []line {
	var lines []line
	for _, r := range p.rows {
		if r.beside == "" {
			lines = append(lines, p.line(r))
		}
	}
	return lines
}

func (p *page) line(r row) line {
	l := line{Name: r.name, Bar: limit(r.bar), Goal: limit(r.goal)}
	if !r.measured() {
		l.Note = "not measured: " + r.Absent
		return l
	}
	each := func(d time.Duration) float64 { return float64(d) / float64(r.Done) / float64(p.Unit) }
	cost := each(r.used.total())
	l.Cost, l.Server = amount(cost), amount(each(r.used.server))
	if r.used.below > 0 {
		l.Database = amount(each(r.used.below))
	}
	l.Bar, l.Goal = judged(cost, r.bar), judged(cost, r.goal)
	l.Rate = fmt.Sprintf("%.0f", r.rate())
	l.P50, l.P95, l.P99 = millis(r.P50), millis(r.P95), millis(r.P99)
	if r.grows {
		l.Stored = fmt.Sprintf("%.0f", r.stored)
	}
	if r.Requests > 0 {
		l.Note = fmt.Sprintf("%.1f requests each", r.Requests)
	}
	if r.Octets > 0 {
		l.Note = fmt.Sprintf("a list of %d octets", r.Octets)
	}
	return l
}

func limit(s float64) string {
	if s == 0 {
		return ""
	}
	return fmt.Sprintf("≤ %g", s)
}

func judged(cost, s float64) string {
	if s == 0 {
		return ""
	}
	return limit(s) + " " + verdict(cost, s)
}

func amount(v float64) string {
	const precise = 10
	if v < precise {
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.1f", v)
}

func millis(d time.Duration) string { return fmt.Sprintf("%.2f", float64(d)/float64(time.Millisecond)) }

// Micros is a duration for people.
func (*page) Micros(d time.Duration) string {
	return fmt.Sprintf("%.1f µs", float64(d)/float64(time.Microsecond))
}

// print tells a terminal.
func (p *page) print(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)                                           //nolint:mnd // two spaces between columns
	fmt.Fprintf(w, "S = %s (up to %s during the run); load average %s before, %s after\n\n", //nolint:errcheck // Flush says
		p.Micros(p.Unit), p.Micros(p.UnitHigh), p.LoadBefore, p.LoadAfter)
	fmt.Fprintln(w, "operation\tcost, S\tsegl\tPostgres\tbar\tgoal\t/s\tp50 ms\tp95\tp99\toctets stored\t") //nolint:errcheck // Flush says
	for _, l := range p.Lines() {
		fmt.Fprintln(w, strings.Join([]string{ //nolint:errcheck // Flush says
			l.Name, l.Cost, l.Server, l.Database, l.Bar, l.Goal, l.Rate, l.P50, l.P95, l.P99, l.Stored, l.Note,
		}, "\t"))
	}
	for _, l := range p.Peers() {
		fmt.Fprintln(w, strings.Join([]string{ //nolint:errcheck // Flush says
			l.Name, l.Cost, l.Server, l.Database, "CPU " + l.CPU, "rate " + l.Rates, l.Rate, l.P50, l.P95, l.P99, l.Stored, l.Note,
		}, "\t"))
	}
	fmt.Fprintln(w) //nolint:errcheck // Flush says
	for _, f := range p.Figures {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", f.Name, f.Value, f.Bar, f.Verdict) //nolint:errcheck // Flush says
	}
	return w.Flush()
}

//go:embed page.md.tmpl
var pageText string

// write makes the page.
func (p *page) write(file string) error {
	t, err := template.New("page").Parse(pageText)
	if err != nil {
		return fmt.Errorf("writing %s: %w", file, err)
	}
	var b bytes.Buffer
	if err := t.Execute(&b, p); err != nil {
		return fmt.Errorf("writing %s: %w", file, err)
	}
	if err := os.WriteFile(file, b.Bytes(), 0o644); err != nil { //nolint:gosec // a page for everybody
		return fmt.Errorf("writing %s: %w", file, err)
	}
	return nil
}

func processor() string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return runtime.GOARCH
	}
	for line := range strings.Lines(string(text)) {
		if name, model, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(model)
		}
	}
	return runtime.GOARCH
}

// loadAverage is how many processes wanted to run, over the last minute.
func loadAverage() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	minute, _, _ := strings.Cut(string(text), " ")
	return minute
}
