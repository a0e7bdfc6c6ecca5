package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// A spec tells a load process what to do.
type spec struct {
	Kind    string
	Count   int           // operations to measure
	Warm    int           // operations before those, not measured
	Workers int           // at once
	Limit   time.Duration // when to stop before Count
	Env     map[string]string
	Stock   string // file with certificates issued by earlier loads
	Port    int    // where http-01 responses are served
}

// An outcome is what a load process saw. Absent says that the server does not offer the operation.
type outcome struct {
	Absent        string
	Done          int
	Elapsed       time.Duration
	P50, P95, P99 time.Duration
	Octets        int64   // of the list that was fetched last
	Requests      float64 // an operation
}

// A job is an operation made ready: its connections are open, its requests written, its keys made.
type job struct {
	runs  int                          // how often to run; 0: as often as there are operations
	per   int                          // operations in one run: 100 in a batch
	run   func(worker, n int) error    // runs the n-th, on the worker's connection
	tally func(done int, out *outcome) // adds what it counted; may be nil
	close func() error                 // may be nil
}

// errAbsent says that the server does not offer what is to be measured.
var errAbsent = errors.New("not offered by this build")

// load is a load process: it reads a spec, prepares, says ready, waits for a line, runs, and writes its outcome.
func load(in io.Reader, out io.Writer) error {
	lines := bufio.NewReader(in)
	text, err := lines.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("reading what to do: %w", err)
	}
	var s spec
	if err := json.Unmarshal(text, &s); err != nil {
		return fmt.Errorf("reading what to do: %w", err)
	}
	j, err := s.prepare()
	if err == nil {
		_, err = s.span(j, 0, s.Warm)
	}
	tell := json.NewEncoder(out)
	if errors.Is(err, errAbsent) {
		return tell.Encode(outcome{Absent: err.Error()})
	}
	if err != nil {
		return fmt.Errorf("preparing %s: %w", s.Kind, err)
	}
	if _, err := fmt.Fprintln(out, "ready"); err != nil {
		return err
	}
	if _, err := lines.ReadString('\n'); err != nil {
		return fmt.Errorf("waiting for the start: %w", err)
	}
	if j.runs == 0 {
		j.runs = s.Count
	}
	o, err := s.span(j, s.Warm, s.Warm+j.runs)
	if err != nil {
		return fmt.Errorf("running %s: %w", s.Kind, err)
	}
	if j.tally != nil {
		j.tally(o.Done, &o)
	}
	if err := tell.Encode(o); err != nil {
		return err
	}
	if j.close != nil {
		return j.close()
	}
	return nil
}

// span runs the operations from first to before last.
func (s spec) span(j *job, first, last int) (outcome, error) {
	var (
		next   atomic.Int64
		failed atomic.Pointer[error]
		times  = make([][]time.Duration, s.Workers)
		wg     sync.WaitGroup
	)
	next.Store(int64(first))
	began := time.Now()
	for w := range s.Workers {
		wg.Go(func() {
			for failed.Load() == nil && time.Since(began) < s.Limit {
				n := int(next.Add(1)) - 1
				if n >= last {
					return
				}
				at := time.Now()
				if err := j.run(w, n); err != nil {
					failed.CompareAndSwap(nil, &err)
					return
				}
				times[w] = append(times[w], time.Since(at))
			}
		})
	}
	wg.Wait()
	o := outcome{Elapsed: time.Since(began)}
	if err := failed.Load(); err != nil {
		return o, *err
	}
	all := slices.Concat(times...)
	o.Done = len(all) * j.per
	if len(all) > 0 {
		slices.Sort(all)
		at := func(percent int) time.Duration { return all[min(len(all)-1, len(all)*percent/100)] }
		o.P50, o.P95, o.P99 = at(50), at(95), at(99) //nolint:mnd // percentiles
	}
	return o, nil
}
