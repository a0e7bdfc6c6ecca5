package ledger

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/postgres"
)

// Group commit. Concurrent writes of one kind share a transaction: while one batch is being committed the next gathers, so
// an idle ledger answers at once and a busy one commits many writes a round trip. Once the next is large it does not wait for
// the first, so a slow commit bounds latency, not throughput. No timer is involved.
const (
	groupSize    = 128
	groupLarge   = 32
	groupQueue   = 1024
	groupWorkers = 4
	groupTimeout = 10 * time.Second
)

// An asked is one write in a group. Its answer is ready when done is closed.
type asked[T any] struct {
	ctx   context.Context //nolint:containedctx // of the caller that waits: who has gone before the batch is left out
	write T
	err   error
	done  chan struct{}
}

// A group gathers writes. run writes a batch in one transaction and sets each write's own err; an error that it returns
// means that the whole transaction failed.
type group[T any] struct {
	queue     chan *asked[T]
	gathering sync.Mutex    // held by the worker that gathers
	turn      chan struct{} // holds one token while a batch that is not large is being committed
	run       func(context.Context, []*asked[T]) error
	wait      sync.WaitGroup

	mu     sync.RWMutex // guards closed, and the queue against being closed under a sender
	closed bool
}

func newGroup[T any](run func(context.Context, []*asked[T]) error) *group[T] {
	g := &group[T]{queue: make(chan *asked[T], groupQueue), turn: make(chan struct{}, 1), run: run}
	for range groupWorkers {
		g.wait.Go(g.work)
	}
	return g
}

// do hands write to the group and waits for its transaction. When ctx ends while the batch is under way its outcome is
// unknown to this caller.
func (g *group[T]) do(ctx context.Context, write T) error {
	a := &asked[T]{ctx: ctx, write: write, done: make(chan struct{})}
	if err := g.enqueue(a); err != nil {
		return err
	}
	select {
	case <-a.done:
		return a.err
	case <-ctx.Done():
	}
	select {
	case <-a.done: // both at once: what is known counts
		return a.err
	default:
		return explained(fmt.Errorf("waiting for the ledger: %w", ctx.Err()))
	}
}

func (g *group[T]) enqueue(a *asked[T]) error {
	g.mu.RLock()
	defer g.mu.RUnlock()
	if g.closed {
		return fmt.Errorf("%w: the ledger is closed", ca.ErrUnavailable)
	}
	select {
	case g.queue <- a:
		return nil
	default:
		return fmt.Errorf("%w: %d writes are already waiting", ca.ErrUnavailable, groupQueue)
	}
}

// close ends the group after everything queued is answered. Who comes later, as a request that outlived the drain, is told
// so.
func (g *group[T]) close() {
	g.mu.Lock()
	g.closed = true
	close(g.queue)
	g.mu.Unlock()
	g.wait.Wait()
}

func (g *group[T]) work() {
	for {
		batch, release := g.gather()
		if batch == nil {
			return
		}
		g.commit(batch)
		release()
	}
}

// gather returns the next batch once it is its turn or it is large, and what gives the turn back; nil when all is done. One
// worker gathers at a time, so that batches grow.
func (g *group[T]) gather() (batch []*asked[T], release func()) {
	g.gathering.Lock()
	defer g.gathering.Unlock()
	first, ok := <-g.queue
	if !ok {
		return nil, nil
	}
	batch = g.drain([]*asked[T]{first})
	for queue := g.queue; len(batch) < groupLarge; {
		select {
		case g.turn <- struct{}{}:
			return g.drain(batch), func() { <-g.turn }
		case next, ok := <-queue:
			if !ok {
				queue = nil // closed: nothing more comes, and the turn does
				continue
			}
			batch = append(batch, next)
		}
	}
	return g.drain(batch), func() {}
}

// drain adds what is waiting.
func (g *group[T]) drain(batch []*asked[T]) []*asked[T] {
	for len(batch) < groupSize {
		select {
		case next, ok := <-g.queue:
			if !ok {
				return batch
			}
			batch = append(batch, next)
		default:
			return batch
		}
	}
	return batch
}

// commit writes a batch. One bad write must not cost the others theirs: when the transaction is known to have failed,
// each is tried by itself.
func (g *group[T]) commit(batch []*asked[T]) {
	live := batch[:0:0]
	for _, a := range batch {
		if a.err = explained(a.ctx.Err()); a.err == nil {
			live = append(live, a)
		} else {
			close(a.done)
		}
	}
	for _, part := range postgres.Apart(live, func(a *asked[T]) context.Context { return a.ctx }) {
		g.commitPart(part)
	}
	for _, a := range live {
		close(a.done)
	}
}

// commitPart writes those of a batch that see alike: owner's work, or what others asked for.
func (g *group[T]) commitPart(live []*asked[T]) {
	err := g.try(live)
	if err != nil && len(live) > 1 && !postgres.InDoubt(err) && !postgres.Unavailable(err) {
		for _, a := range live {
			if err := g.try([]*asked[T]{a}); err != nil {
				a.err = err
			}
		}
	} else if err != nil {
		for _, a := range live {
			a.err = err
		}
	}
}

// apart separates the first write of each serial from those that repeat it: one statement decides about a row once.
func apart[T any](batch []*asked[T], serial func(T) cert.Serial) (first, again []*asked[T]) {
	seen := make(map[cert.Serial]bool, len(batch))
	for _, a := range batch {
		if s := serial(a.write); seen[s] {
			again = append(again, a)
		} else {
			seen[s], first = true, append(first, a)
		}
	}
	return first, again
}

func (g *group[T]) try(batch []*asked[T]) error {
	if len(batch) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), groupTimeout) // the batch belongs to no single caller
	defer cancel()
	asking := make([]context.Context, len(batch))
	for i, a := range batch {
		asking[i] = a.ctx
	}
	err := g.run(postgres.Together(ctx, asking...), batch)
	return explained(err)
}

// explained says of a failed write what its caller can act upon.
func explained(err error) error {
	if e, ok := errors.AsType[*pgconn.PgError](err); missingTable(err) || ok && e.Code == pgerrcodeCheck && e.ConstraintName == "" {
		return fmt.Errorf("%w: the ledger has no partition for this time: check the service's clock, and that epochs are made ahead: %w",
			ca.ErrUnavailable, err)
	}
	if postgres.Unavailable(err) {
		return fmt.Errorf("%w: %w", ca.ErrUnavailable, err)
	}
	return err
}

// pgerrcodeCheck is check_violation; where no constraint is named it is that of a partitioned table without a partition for
// the row.
const pgerrcodeCheck = "23514"
