package fill

import (
	"context"
	"fmt"
	"slices"
	"time"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/internal/cert"
)

// A Timing is how long look-ups of one kind took.
type Timing struct {
	Kind          string
	P50, P99, Max time.Duration
	// Growth is how much longer the later half of a list's pages took than the earlier half: 1 where a page takes the same time
	// wherever it is. 0: these are no pages.
	Growth float64
}

// String is for people.
func (t Timing) String() string {
	s := fmt.Sprintf("%-32s p50 %6.2f ms, p99 %6.2f ms, most %6.2f ms", t.Kind, ms(t.P50), ms(t.P99), ms(t.Max))
	if t.Growth > 0 {
		s += fmt.Sprintf(", later pages %.2f times the earlier", t.Growth)
	}
	return s
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// pageSize is what the lists answer with.
const pageSize = 100

// pagesDeep is how far in the last page is that is timed.
const pagesDeep = 40

// Lookups times each kind of look-up, once for every sample, and pages. Each finds what it asks for, or it is an error.
func (p Plan) Lookups(ctx context.Context, list []Sample) ([]Timing, error) {
	var out []Timing
	for _, kind := range []struct {
		name string
		do   func(Sample) (int, error)
	}{
		{"by serial", func(s Sample) (int, error) { _, err := p.Ledger.BySerial(ctx, s.Serial); return 1, err }},
		{"by name", func(s Sample) (int, error) { return p.find(ctx, ca.Query{Name: s.Name, Limit: pageSize}) }},
		{"by identity, its last", func(s Sample) (int, error) { return p.find(ctx, ca.Query{Name: s.Identity, Limit: 1}) }},
		{"by key fingerprint", func(s Sample) (int, error) { return p.find(ctx, ca.Query{Key: s.Key, Limit: pageSize}) }},
		{"by scope", func(Sample) (int, error) { return p.find(ctx, ca.Query{Scope: p.Scope, Limit: pageSize}) }},
		{"by scope, expiring", func(Sample) (int, error) {
			return p.find(ctx, ca.Query{Scope: p.Scope, ExpiringAfter: p.Now, ExpiringBefore: p.Now.Add(life), Limit: pageSize})
		}},
	} {
		t, err := timed(kind.name, list, kind.do)
		if err != nil {
			return nil, err
		}
		out = append(out, t)
	}
	for _, q := range []struct {
		name string
		q    ca.Query
	}{
		{"a page by expiry", ca.Query{Scope: p.Scope, Limit: pageSize}},
		{"a page by a name that many have", ca.Query{Name: Popular, Limit: pageSize / 10}}, //nolint:mnd // there are fewer
	} {
		t, err := p.pages(ctx, q.name, q.q)
		if err != nil {
			return nil, err
		}
		out = append(out, t)
	}
	return out, nil
}

func (p Plan) find(ctx context.Context, q ca.Query) (int, error) {
	page, err := p.Ledger.Select(ctx, q)
	return len(page.Records), err
}

func timed(kind string, list []Sample, do func(Sample) (int, error)) (Timing, error) {
	var all []time.Duration
	for _, s := range append(list[:1:1], list...) { // the first one's plans are not counted
		began := time.Now()
		n, err := do(s)
		all = append(all, time.Since(began))
		if err != nil || n == 0 {
			return Timing{}, fmt.Errorf("%s: found %d of %s: %w", kind, n, s.Serial, err)
		}
	}
	return timing(kind, all[1:]), nil
}

// pages reads on from page to page: the last must take no longer than the first.
func (p Plan) pages(ctx context.Context, kind string, q ca.Query) (Timing, error) {
	var all []time.Duration
	var last cert.Serial
	for range pagesDeep {
		began := time.Now()
		page, err := p.Ledger.Select(ctx, q)
		all = append(all, time.Since(began))
		if err != nil {
			return Timing{}, err
		}
		if len(page.Records) == 0 && len(all) == 1 {
			return Timing{}, fmt.Errorf("%s: nothing is found", kind)
		}
		if len(page.Records) == 0 || !page.More { // the last page was full: that there is more was a guess
			break
		}
		if page.Next.Serial == last {
			return Timing{}, fmt.Errorf("%s: a page ends where the last one did", kind)
		}
		last, q.After = page.Next.Serial, page.Next
	}
	half := len(all) / 2 //nolint:mnd // the first page's plans are not counted
	var growth float64
	if half > 1 {
		growth = float64(timing(kind, all[half:]).P50) / float64(timing(kind, all[1:half]).P50)
	}
	t := timing(kind, all)
	t.Growth = growth
	return t, nil
}

func timing(kind string, all []time.Duration) Timing {
	all = slices.Sorted(slices.Values(all))
	const hundred = 100
	return Timing{Kind: kind, P50: all[len(all)/2], P99: all[min(len(all)-1, len(all)*99/hundred)], Max: all[len(all)-1]}
}
