package postgres

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// Bounds of a Ferry.
const (
	ferrySeats   = 128  // entries in one trip
	ferryEnough  = 12   // for which nobody lingers
	ferryWaiting = 4096 // entries; above it whoever comes is refused
	ferryTimeout = 10 * time.Second
)

// A Ferry takes what many ask of the database at once over in few round trips, each one transaction: while one is under way
// the next gathers, so that an idle server answers at once and a busy one serves many a trip, whatever kinds of questions they
// have. Where the last trip served several, the next lingers for a moment: more are coming, and a trip costs nearly the same
// for all of them.
//
// It has no goroutine of its own: of those who wait, the first runs the trip for all. Kinds go in the order in which they were
// made, so that trips of two replicas that lock rows of several kinds do so in one order.
type Ferry struct {
	db     *DB
	linger time.Duration
	kinds  []func(context.Context, *pgx.Batch, []*fare) func(pgx.BatchResults) error

	mu      sync.Mutex // guards below
	waiting []*fare
	enough  chan struct{} // closed when so many wait that nobody lingers on; nil: nobody does
	under   bool          // somebody runs a trip, or was told to
	several bool          // the last trip served more than one
	closed  bool
	idle    *sync.Cond // under became false
}

// A fare is one entry on its way.
type fare struct {
	ctx   context.Context //nolint:containedctx // of whoever waits: it says whose rows may be seen
	kind  int
	entry any
	wake  chan struct{}
	lead  bool // it is to run the next trip; guarded by the Ferry's mu until wake
	done  bool
	err   error
}

// NewFerry returns a Ferry over db that lingers at most so long for more.
func NewFerry(db *DB, linger time.Duration) *Ferry {
	f := &Ferry{db: db, linger: linger}
	f.idle = sync.NewCond(&f.mu)
	return f
}

// Close waits for the trip under way. Nobody is taken on any more.
func (f *Ferry) Close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	for f.under {
		f.idle.Wait()
	}
}

// A Kind is one kind of question that a Ferry takes.
type Kind[T any] struct {
	ferry *Ferry
	kind  int
}

// NewKind adds a kind to f, before f is used. queue adds statements for entries that came together to a batch, and returns what
// reads their results. It begins with entries as if they were new: a trip that failed is made again, for each by itself.
func NewKind[T any](f *Ferry, queue func(context.Context, *pgx.Batch, []T) func(pgx.BatchResults) error) Kind[T] {
	f.kinds = append(f.kinds, func(ctx context.Context, b *pgx.Batch, all []*fare) func(pgx.BatchResults) error {
		entries := make([]T, len(all))
		for i, a := range all {
			entries[i] = a.entry.(T) //nolint:forcetypeassert // Do puts nothing else there
		}
		return queue(ctx, b, entries)
	})
	return Kind[T]{f, len(f.kinds) - 1}
}

var (
	errFerryFull   = errors.New("too much waits for the database: ask again later")
	errFerryClosed = errors.New("it is being closed")
)

// Do has entry taken over. nil: its transaction is committed, and what queue's reader filled in may be read. When ctx ends
// first, it may be taken over all the same.
func (k Kind[T]) Do(ctx context.Context, entry T) error {
	a := &fare{ctx: ctx, kind: k.kind, entry: entry, wake: make(chan struct{}, 1)}
	lead, err := k.ferry.board(a)
	switch {
	case err != nil:
		return err
	case !lead:
		select {
		case <-a.wake:
		case <-ctx.Done():
			if k.ferry.leave(a) {
				return fmt.Errorf("waiting for the database: %w", ctx.Err())
			}
			<-a.wake // it is under way, or ours to run: both are bounded
		}
	}
	if !a.done {
		k.ferry.run()
	}
	return a.err
}

// board lets a wait. True: it is to run the trip.
func (f *Ferry) board(a *fare) (lead bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.closed:
		return false, errFerryClosed
	case len(f.waiting) >= ferryWaiting:
		return false, errFerryFull
	}
	f.waiting = append(f.waiting, a)
	if f.enough != nil && len(f.waiting) >= ferryEnough {
		close(f.enough)
		f.enough = nil
	}
	lead, f.under = !f.under, true
	a.lead = lead
	return lead, nil
}

// leave takes a off again, if it still waits for others.
func (f *Ferry) leave(a *fare) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	i := slices.Index(f.waiting, a)
	if i < 0 || a.lead {
		return false
	}
	f.waiting = slices.Delete(f.waiting, i, i+1)
	return true
}

// run makes one trip. Whoever runs it is the first who waits.
func (f *Ferry) run() {
	all := f.gather()
	f.serve(all)
	f.mu.Lock()
	f.several = len(all) > 1
	var next *fare
	if len(f.waiting) > 0 {
		next = f.waiting[0]
		next.lead = true
	} else {
		f.under = false
		f.idle.Broadcast()
	}
	f.mu.Unlock()
	if next != nil {
		next.wake <- struct{}{}
	}
	for _, a := range all[1:] {
		a.wake <- struct{}{}
	}
}

// gather returns who goes with the next trip.
func (f *Ferry) gather() []*fare {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.several && f.linger > 0 && len(f.waiting) < ferryEnough {
		enough := make(chan struct{})
		f.enough = enough
		f.mu.Unlock()
		end := time.NewTimer(f.linger)
		select {
		case <-enough:
		case <-end.C:
		}
		end.Stop()
		f.mu.Lock()
		f.enough = nil
	}
	n := min(len(f.waiting), ferrySeats)
	all := slices.Clone(f.waiting[:n])
	f.waiting = slices.Delete(f.waiting, 0, n)
	return all
}

// serve takes all over, owner's work apart from others' (Apart).
func (f *Ferry) serve(all []*fare) {
	for _, part := range Apart(all, (*fare).context) {
		f.together(part)
	}
}

func (a *fare) context() context.Context { return a.ctx }

// together takes over those who see alike. If the database refuses them, each goes by itself: then only the one at fault is refused.
func (f *Ferry) together(all []*fare) {
	err := f.trip(all)
	alone := err != nil && len(all) > 1 && !InDoubt(err) && !Unavailable(err)
	for _, a := range all {
		if a.err = err; alone {
			a.err = f.trip([]*fare{a})
		}
		a.done = true
	}
}

// trip runs one batch.
func (f *Ferry) trip(all []*fare) (err error) {
	defer func() { // else everybody would wait for ever
		if r := recover(); r != nil {
			err = fmt.Errorf("asking the database panicked: %v\n%s", r, debug.Stack())
		}
	}()
	ctx, cancel := context.WithTimeout(context.Background(), ferryTimeout) // it belongs to no single request
	defer cancel()
	of := make([]context.Context, len(all))
	for i, a := range all {
		of[i] = a.ctx
	}
	ctx = Together(ctx, of...)
	var b pgx.Batch
	var readers []func(pgx.BatchResults) error
	some := make([]*fare, 0, len(all))
	for kind, queue := range f.kinds {
		some = some[:0]
		for _, a := range all {
			if a.kind == kind {
				some = append(some, a)
			}
		}
		if len(some) > 0 {
			readers = append(readers, queue(ctx, &b, some))
		}
	}
	if b.Len() == 0 { // nothing had to be asked
		return nil
	}
	results := f.db.SendBatch(ctx, &b)
	defer results.Close() //nolint:errcheck // where it was closed already, nothing happens
	for _, read := range readers {
		if err = read(results); err != nil {
			break
		}
	}
	return errors.Join(err, results.Close())
}
