package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"codeberg.org/dataverket/segl/ca/ledger"
	"codeberg.org/dataverket/segl/internal/bench/fill"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/postgres"
)

// What a large ledger must not exceed.
const (
	barLookup = 5 * time.Millisecond // p99
	barGrowth = 1.5                  // of a list's later pages over its earlier ones
	barSlower = 1.1                  // of the time for one issuance, over an empty ledger's
)

// largeWeeks is how many weeks the certificates are spread over.
const largeWeeks = 58

// measureLarge issues into an empty ledger, fills it, starts segl on it again, looks up and issues once more. Look-ups are
// timed at the ledger, without HTTP.
func (b *bench) measureLarge(ctx context.Context) error {
	if b.opts.large == 0 || !b.opts.only.MatchString("large") {
		return nil
	}
	data := filepath.Join(b.dir, "large")
	var empty, full outcome
	var some []fill.Sample
	err := b.serving(ctx, data, func(s *server) (err error) {
		if empty, err = b.issue(ctx, s); err == nil {
			some, err = b.fill(ctx, s)
		}
		return err
	})
	if err != nil {
		return err
	}
	return b.serving(ctx, data, func(s *server) (err error) {
		b.page.figure(b.among("ready after start"), fmt.Sprintf("%.2f s", s.ready.Seconds()), "≤ 2 s", verdict(s.ready.Seconds(), barReady))
		if err = b.lookups(ctx, s, some); err != nil {
			return err
		}
		if full, err = b.issue(ctx, s); err != nil {
			return err
		}
		slower := each(full) / each(empty)
		b.page.figure(b.among("issue rate over an empty ledger's"), fmt.Sprintf("%.0f %%", 100/slower), "≥ 90 %", verdict(slower, barSlower))
		return nil
	})
}

// among names a figure.
func (b *bench) among(what string) string {
	return fmt.Sprintf("%s, among %d certificates", what, b.opts.large)
}

// each is how long one operation took.
func each(o outcome) float64 { return o.Elapsed.Seconds() / float64(o.Done) }

// serving runs what while segl runs in data.
func (b *bench) serving(ctx context.Context, data string, what func(*server) error) error {
	s, err := startSegl(ctx, b.program, data, 0)
	if err != nil {
		return err
	}
	if err = what(s); err != nil {
		err = fmt.Errorf("%w\n%s", err, s.tail())
	}
	return errors.Join(err, s.stop())
}

// issue drives issuance.
func (b *bench) issue(ctx context.Context, s *server) (outcome, error) {
	at := subject{pid: s.pid, env: s.env, stock: filepath.Join(b.dir, "large.json")}
	o, err := b.drive(ctx, b.spec(at, operations()[0]), nil)
	if err == nil && o.Done == 0 {
		err = fmt.Errorf("issuing: nothing was issued: %s", o.Absent)
	}
	return o, err
}

// plan says what is put into s's ledger. Who calls it closes the database.
func (b *bench) plan(ctx context.Context, s *server) (fill.Plan, error) {
	scope, err := identity.ParseScope(s.env["SEGL_SCOPE"])
	if err != nil {
		return fill.Plan{}, fmt.Errorf("reading segl's scope: %w", err)
	}
	db, err := postgres.Open(ctx, postgres.Config{URL: s.env["SEGL_DATABASE_URL"]})
	if err != nil {
		return fill.Plan{}, err
	}
	const site = 1
	return fill.Plan{
		DB: db, Ledger: ledger.New(db, site), Site: site, Scope: scope, N: b.opts.large, Epochs: largeWeeks, Now: time.Now(),
	}, nil
}

func (b *bench) fill(ctx context.Context, s *server) ([]fill.Sample, error) {
	p, err := b.plan(ctx, s)
	if err != nil {
		return nil, err
	}
	defer p.DB.Close()
	defer p.Ledger.Close()
	fmt.Fprintf(os.Stderr, "bench: filling a ledger with %d certificates\n", p.N) //nolint:errcheck // for whoever waits
	began := time.Now()
	some, err := p.Run(ctx)
	b.page.figure(fmt.Sprintf("putting %d certificates into a ledger", p.N), fmt.Sprintf("%.0f s", time.Since(began).Seconds()), "", "")
	return some, err
}

func (b *bench) lookups(ctx context.Context, s *server, some []fill.Sample) error {
	p, err := b.plan(ctx, s)
	if err != nil {
		return err
	}
	defer p.DB.Close()
	defer p.Ledger.Close()
	timings, err := p.Lookups(ctx, some)
	for _, t := range timings {
		name, value := b.among("found "+t.Kind), fmt.Sprintf("p50 %s ms, p99 %s ms", millis(t.P50), millis(t.P99))
		if t.Growth == 0 {
			b.page.figure(name, value, "p99 ≤ 5 ms", verdict(float64(t.P99), float64(barLookup)))
			continue
		}
		value += fmt.Sprintf(", later pages %.2f times the earlier", t.Growth)
		b.page.figure(name, value, "≤ 1.5 times", verdict(t.Growth, barGrowth))
	}
	return err
}
