package store

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"codeberg.org/dataverket/segl/internal/limit"
)

// An ask is one charge on its way to the database, and its answer.
type ask struct {
	key    key
	charge limit.Charge
	rate   limit.Rate
	want   int // uses; 0 to look only
	taken  bool

	found   bool // looking: something is counted
	granted int
	wait    time.Duration // when nothing was granted, or, looking, nothing would be
}

// fill adds the statements that count what came together.
func (s *Store) fill(_ context.Context, b *pgx.Batch, all [][]*ask) func(pgx.BatchResults) error {
	var takes, peeks []*ask
	for _, asks := range all {
		for _, a := range asks {
			a.found, a.granted, a.wait = false, 0, 0 // of a try before
			if a.want > 0 {
				takes = append(takes, a)
			} else {
				peeks = append(peeks, a)
			}
		}
	}
	wanted, looked := gathered(takes), gathered(peeks)
	if len(wanted) > 0 {
		b.Queue(take, wanted.columns()...)
	}
	if len(looked) > 0 {
		b.Queue(peek, looked.columns()[:3]...)
	}
	return func(results pgx.BatchResults) error {
		if len(wanted) > 0 {
			if err := readTaken(results, wanted); err != nil {
				return err
			}
		}
		if len(looked) == 0 {
			return nil
		}
		return readPeeked(results, looked)
	}
}

// take grants what is left of each bucket, at most what is wanted: clear may not come to lie more than a burst ahead.
// Buckets are taken in order, so that replicas never wait for each other in a circle.
const take = `
	INSERT INTO limit_bucket AS b (name, subject, clear, seen, step, burst, granted)
	SELECT a.name, a.subject, t.now + a.step * least(a.want, a.burst), t.now, a.step, a.burst, least(a.want, a.burst)
	FROM   unnest($1::text[], $2::text[], $3::bigint[], $4::integer[], $5::integer[]) AS a (name, subject, step, burst, want)
	CROSS  JOIN (SELECT (extract(epoch FROM statement_timestamp()) * 1000000)::bigint AS now) t
	ORDER  BY a.name, a.subject
	ON     CONFLICT ON CONSTRAINT limit_bucket_pk DO UPDATE
	SET    seen = excluded.seen,
	       step = excluded.step,
	       burst = excluded.burst,
	       granted = greatest(0, least(excluded.granted,
	           excluded.burst - ceil(limit_ahead(b.clear, excluded.seen, b.step, excluded.step)::numeric / excluded.step)::bigint)),
	       clear = excluded.seen + limit_ahead(b.clear, excluded.seen, b.step, excluded.step)
	           + excluded.step * greatest(0, least(excluded.granted,
	           excluded.burst - ceil(limit_ahead(b.clear, excluded.seen, b.step, excluded.step)::numeric / excluded.step)::bigint))
	RETURNING b.name, b.subject, b.granted, b.clear - b.seen`

const peek = `
	SELECT b.name, b.subject, limit_ahead(b.clear, t.now, b.step, a.step)
	FROM   unnest($1::text[], $2::text[], $3::bigint[]) AS a (name, subject, step)
	CROSS  JOIN (SELECT (extract(epoch FROM statement_timestamp()) * 1000000)::bigint AS now) t
	CROSS  JOIN LATERAL (
	           SELECT d.name, d.subject, d.clear, d.step
	           FROM   limit_bucket d
	           WHERE  d.name = a.name AND d.subject = a.subject
	           LIMIT  1
	       ) b`

// A share is what several asks want of one bucket.
type share struct {
	key  key
	asks []*ask
}

type shares []share

// gathered puts asks of one bucket together, in the order of buckets.
func gathered(asks []*ask) shares {
	at := make(map[key]int, len(asks))
	var all shares
	for _, a := range asks {
		i, ok := at[a.key]
		if !ok {
			i = len(all)
			at[a.key] = i
			all = append(all, share{key: a.key})
		}
		all[i].asks = append(all[i].asks, a)
	}
	slices.SortFunc(all, func(a, b share) int {
		return cmp.Or(cmp.Compare(a.key.limit, b.key.limit), cmp.Compare(a.key.subject, b.key.subject))
	})
	return all
}

// columns are the arguments of take; the first three those of peek.
func (all shares) columns() []any {
	n := len(all)
	names, subjects, steps := make([]string, n), make([]string, n), make([]int64, n)
	bursts, wants := make([]int32, n), make([]int32, n)
	for i, s := range all {
		r := s.asks[0].rate
		names[i], subjects[i], steps[i] = string(s.key.limit), s.key.subject, max(1, r.Step().Microseconds())
		bursts[i] = int32(r.Count) //nolint:gosec // below limit's bound
		for _, a := range s.asks {
			wants[i] = min(wants[i]+int32(a.want), bursts[i]) //nolint:gosec // below leaseMost each
		}
	}
	return []any{names, subjects, steps, bursts, wants}
}

func (all shares) find(name, subject string) (share, error) {
	for _, s := range all {
		if string(s.key.limit) == name && s.key.subject == subject {
			return s, nil
		}
	}
	return share{}, fmt.Errorf("counting uses: the answer is about %s of %.80q, which was not asked", name, subject)
}

// readTaken deals what was granted out: one to each first, the rest to the last.
func readTaken(results pgx.BatchResults, all shares) error {
	rows, err := results.Query()
	if err != nil {
		return err
	}
	var name, subject string
	var granted int
	var ahead int64
	_, err = pgx.ForEachRow(rows, []any{&name, &subject, &granted, &ahead}, func() error {
		s, err := all.find(name, subject)
		if err != nil {
			return err
		}
		for _, a := range s.asks {
			if granted == 0 {
				a.wait = max(time.Microsecond, waitFor(a.rate, ahead))
				continue
			}
			a.granted = 1
			granted--
		}
		s.asks[0].granted += granted
		return nil
	})
	return err
}

func readPeeked(results pgx.BatchResults, all shares) error {
	rows, err := results.Query()
	if err != nil {
		return err
	}
	var name, subject string
	var ahead int64
	_, err = pgx.ForEachRow(rows, []any{&name, &subject, &ahead}, func() error {
		s, err := all.find(name, subject)
		for _, a := range s.asks {
			a.found, a.wait = true, waitFor(a.rate, ahead)
		}
		return err
	})
	return err
}

// waitFor is how long until one more use is allowed of a bucket that is clear in so many microseconds; not above zero: now.
func waitFor(r limit.Rate, ahead int64) time.Duration {
	step := max(1, r.Step().Microseconds())
	return time.Duration(ahead-step*int64(r.Count-1)) * time.Microsecond
}
