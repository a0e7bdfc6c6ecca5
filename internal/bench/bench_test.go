package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A process may be called anything, also what looks like the fields that follow its name.
func TestTimesAreReadAfterTheLastBracket(t *testing.T) {
	p, err := parseStat("42 (a) R 7 (b) S 41 42 42 0 -1 4194560 1 2 3 4 150 25 10 5 20 0 1 0 99 1 1 1")
	if err != nil {
		t.Fatal(err)
	}
	if want := (process{parent: 41, own: 1750 * time.Millisecond, waited: 150 * time.Millisecond}); *p != want {
		t.Errorf("got %+v, want %+v", *p, want)
	}
}

func TestShortOrForeignTimesAreRefused(t *testing.T) {
	for _, text := range []string{"", "42 (segl) S 41", "42 (segl) S 41 42 42 0 -1 4194560 1 2 3 4 x 25 10 5 20"} {
		if p, err := parseStat(text); err == nil {
			t.Errorf("%q: got %+v, want an error", text, *p)
		}
	}
}

func TestOnlyWhatRunsBelowAServerCounts(t *testing.T) {
	all := map[int]*process{1: {}, 10: {parent: 1}, 11: {parent: 10}, 12: {parent: 11}, 20: {parent: 1}}
	for pid, want := range map[int]bool{1: false, 10: false, 11: true, 12: true, 20: false} {
		if got := all[pid].isBelow(10, all); got != want {
			t.Errorf("process %d below 10: got %v", pid, got)
		}
	}
}

func TestThisProcessHasAUsage(t *testing.T) {
	if _, err := usageOf(os.Getpid()); err != nil {
		t.Error(err)
	}
	if n, err := residentOf(os.Getpid()); err != nil || n <= 0 {
		t.Errorf("memory: got %d, %v", n, err)
	}
	if s, err := measureUnit(); err != nil || s <= 0 {
		t.Errorf("unit: got %s, %v", s, err)
	}
}

// The page tells what was missed and what was not there as plainly as what was met.
func TestPageTellsWhatWasMissed(t *testing.T) {
	p := page{rows: []row{
		{operation{name: "cheap", bar: 40, goal: 22}, outcome{Done: 100, Elapsed: time.Second}, usage{2 * time.Millisecond, time.Millisecond}, 0},
		{operation{name: "dear", bar: 40, grows: true}, outcome{Done: 100, Elapsed: time.Second}, usage{server: time.Second}, 1234},
		{operation{name: "gone", bar: 40}, outcome{Absent: errAbsent.Error()}, usage{}, 0},
	}}
	p.end([]time.Duration{2 * time.Microsecond, time.Microsecond})
	file := filepath.Join(t.TempDir(), "page.md")
	if err := p.write(file); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var screen bytes.Buffer
	if err := p.print(&screen); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"| cheap | 30.0 | 20.0 | 10.0 | ≤ 40 met | ≤ 22 missed | 100 |",
		"| dear | 10000.0 | 10000.0 |  | ≤ 40 missed |  | 100 | 0.00 | 0.00 | 0.00 | 1234 |",
		"| gone |  |  |  | ≤ 40 |  |  |  |  |  |  | not measured: not offered by this build |",
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("the page lacks %q:\n%s", want, text)
		}
	}
	if !strings.Contains(screen.String(), "S = 1.0 µs (up to 2.0 µs during the run)") {
		t.Errorf("the terminal was not told the unit:\n%s", &screen)
	}
}
