package seal

import (
	"context"
	"fmt"
	"time"
)

// batch is how many facts one run takes before it stores what it has: a bound on memory and on what is lost with a lease.
const batch = 4096

// Duty is the name of the duty that a Sealer's term is of.
const Duty = "seal"

// A Sealer appends finished facts to the tree. It keeps no state: what it needs is the head.
type Sealer struct {
	Store Store
	Log   Log
	Now   func() time.Time
	// Sealed is told of each new head, from the goroutine that seals. Nil: nobody is.
	Sealed func(Head)
}

// RunOnce seals every fact that is finished. It is the work of the duty Duty, under term, and safe to repeat: a run that
// lost its lease, or came after another's, stores nothing.
func (s *Sealer) RunOnce(ctx context.Context, term int64) error {
	head, err := s.Store.Head(ctx)
	if err != nil {
		return fmt.Errorf("reading the tree: %w", err)
	}
	for {
		// 1. Read. Nothing that is read can change any more: its transactions have ended, and rows are never updated.
		rows, err := s.Store.Finished(ctx, head.Last, s.since(head), batch)
		if err != nil {
			return fmt.Errorf("reading the facts after %s: %w", head.Last, err)
		}
		if len(rows) == 0 {
			return nil
		}
		next, tiles := s.grow(head, rows)
		// 2. Sign. No transaction is open, and nobody sees it yet.
		if next.Checkpoint, err = s.Log.Sign(ctx, next.Era, next.Size, next.Edge.Root()); err != nil {
			return err
		}
		// 3. Store all of it, if the tree is still the one it follows. A crash before this leaves the facts to the next run.
		if err := s.Store.Advance(ctx, head.Size, next, tiles, term); err != nil {
			return fmt.Errorf("storing the tree of %d facts: %w", next.Size, err)
		}
		if s.Sealed != nil {
			s.Sealed(next)
		}
		if len(rows) < batch {
			return nil
		}
		head = next
	}
}

// skew is how far the clocks of replicas, or one clock on two days, may differ without a fact being passed over. It is an
// epoch, so that no more than two of the ledger's tables are looked at.
const skew = 7 * 24 * time.Hour

// since is before any fact that is not in head yet.
func (s *Sealer) since(head Head) time.Time {
	if head.Size == 0 {
		return time.Time{}
	}
	if now := s.Now(); now.Before(head.SealedAt) {
		return now.Add(-skew)
	}
	return head.SealedAt.Add(-skew)
}

// grow returns the head that follows with rows, and the tiles they completed.
func (s *Sealer) grow(head Head, rows []Row) (Head, []Tile) {
	next := Head{Era: head.Era, Size: head.Size, Edge: head.Edge.Clone(), SealedAt: s.Now()}
	var out []Tile
	for _, r := range rows {
		next.Edge.Append(next.Size, LeafHash(r), func(level int, n int64, hashes []byte) {
			t := Tile{Level: level, N: n, Hashes: hashes}
			if level == 0 {
				t.Last, t.At = r.Position, r.At
			}
			out = append(out, t)
		})
		next.Size++
		next.Last = r.Position
	}
	return next, out
}

// A Lag is how far the tree is behind the ledger.
type Lag struct {
	Size   int64
	Oldest time.Time // of the first finished fact that is not sealed; zero when all are
}

// LagOf says how far the tree is behind.
func (s *Sealer) LagOf(ctx context.Context) (Lag, error) {
	head, err := s.Store.Head(ctx)
	if err != nil {
		return Lag{}, fmt.Errorf("reading the tree: %w", err)
	}
	rows, err := s.Store.Finished(ctx, head.Last, s.since(head), 1)
	if err != nil {
		return Lag{}, fmt.Errorf("reading the fact after %s: %w", head.Last, err)
	}
	l := Lag{Size: head.Size}
	if len(rows) > 0 {
		l.Oldest = rows[0].At
	}
	return l, nil
}
