// Package duty runs periodic work on one replica at a time.
//
// A duty is a row with a holder, a term and an end. Run claims it by the database's clock, calls the work while the lease
// lasts, renews it meanwhile, and lets go when told to stop. Each change of holder raises the term. It is neither a queue
// nor a schedule: work finds for itself what there is to do, so that doing it again, or a wake-up too many, is harmless.
//
// The invariant: two holders never share a term. It is not that two never work at once: a holder that was stalled may wake
// after its successor has begun. Its context has ended by then, and a write that must not land so late asks StillHeld in
// its transaction.
//
//	      claim, term+1            renew, same term
//	free ---------------> held ---------------------> held
//	  ^                    |
//	  +--------------------+ released, or its end has passed (clock_timestamp)
//
// Run may be called concurrently, for one duty or for several.
package duty

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"time"

	"codeberg.org/dataverket/segl/internal/postgres"
)

// A Duty is periodic work and how long a lease on it lasts.
type Duty struct {
	// Name is the row all replicas share.
	Name string
	// Every is the time between two runs that nothing woke. It suffices without Wake.
	Every time.Duration
	// TTL is how long a holder that vanished keeps the others waiting. The lease is renewed from half of it, during a run
	// as well. Zero: 15 s.
	TTL time.Duration
	// Wake asks for a run now. Nil: nothing does. A send to it should not block (capacity 1, and drop).
	Wake <-chan struct{}
	// Once does what there is to do. Its context ends with the lease; term is for StillHeld.
	Once func(ctx context.Context, term int64) error
}

const (
	defaultTTL     = 15 * time.Second
	longestBackoff = time.Minute
	releaseTimeout = 2 * time.Second
)

// Run does the duty whenever it is ours, until ctx ends. By then nothing of it runs any more and the lease is given up.
// A failed run is logged and tried again, ever later up to a minute; while the database is away nothing runs.
func Run(ctx context.Context, db *postgres.DB, d Duty, log *slog.Logger) {
	h := newHolder(db, d, log)
	defer h.release(ctx)
	failed := 0
	for ctx.Err() == nil {
		wait := d.Every
		wake := d.Wake
		if err := h.turn(ctx); err != nil && ctx.Err() == nil {
			failed++
			wait, wake = backoff(d.Every, failed), nil // being woken is no reason to hurry a failure
			log.Error("duty failed", "duty", d.Name, "term", h.lease.term, "retry_in", wait, "err", err)
		} else if failed > 0 && err == nil {
			log.Info("duty recovered", "duty", d.Name, "failures", failed)
			failed = 0
		}
		h.pause(ctx, wait, wake)
	}
}

// Once claims the duty, does one run and gives it up again. It reports whether the duty was ours to do.
func Once(ctx context.Context, db *postgres.DB, d Duty) (ran bool, err error) {
	h := newHolder(db, d, slog.New(slog.DiscardHandler))
	defer h.release(ctx)
	err = h.turn(ctx)
	return h.held, err
}

// A holder is one replica's side of a duty. It belongs to one goroutine.
type holder struct {
	db    *postgres.DB
	duty  Duty
	log   *slog.Logger
	id    string
	lease lease
	held  bool
}

func newHolder(db *postgres.DB, d Duty, log *slog.Logger) *holder {
	if d.TTL <= 0 {
		d.TTL = defaultTTL
	}
	return &holder{db: db, duty: d, log: log, id: rand.Text()}
}

// turn runs the work if the duty is ours or can be.
func (h *holder) turn(ctx context.Context) error {
	if !h.held || time.Until(h.lease.until) < h.duty.TTL/2 {
		if err := h.claim(ctx); err != nil {
			return err
		}
	}
	if !h.held {
		return nil
	}
	return h.work(ctx)
}

func (h *holder) claim(ctx context.Context) error {
	// An answer after the lease it gives, or after the one it renews, is of no use.
	last := time.Now().Add(h.duty.TTL)
	if h.held && h.lease.until.Before(last) && time.Now().Before(h.lease.until) {
		last = h.lease.until
	}
	ctx, cancel := context.WithDeadline(ctx, last)
	defer cancel()
	got, held, err := claim(ctx, h.db, h.duty, h.id)
	if err != nil {
		h.held = h.held && time.Now().Before(h.lease.until)
		return err
	}
	if h.held != held || h.lease.term != got.term && held {
		h.log.Debug("duty changed hands", "duty", h.duty.Name, "held", held, "term", got.term)
	}
	h.lease, h.held = got, held
	return nil
}

// work calls Once under a context that ends with the lease, and renews the lease as long as Once runs.
func (h *holder) work(ctx context.Context) error {
	term := h.lease.term
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	done := make(chan error, 1)
	go func() { done <- h.duty.Once(ctx, term) }()

	end := time.NewTimer(time.Until(h.lease.until))
	defer end.Stop()
	renew := time.NewTicker(h.duty.TTL / 3)
	defer renew.Stop()
	for {
		select {
		case err := <-done:
			return err
		case <-end.C:
			cancel(fmt.Errorf("duty %s: %w: the lease ended before the work", h.duty.Name, ErrLost))
			h.held = false
			return errors.Join(context.Cause(ctx), <-done)
		case <-renew.C:
			if err := h.claim(ctx); err != nil {
				continue // end decides
			}
			if !h.held || h.lease.term != term {
				cancel(fmt.Errorf("duty %s: %w", h.duty.Name, ErrLost))
				return errors.Join(context.Cause(ctx), <-done)
			}
			end.Reset(time.Until(h.lease.until))
		}
	}
}

// release gives the duty up, even though ctx has ended.
func (h *holder) release(ctx context.Context) {
	if !h.held {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTimeout)
	defer cancel()
	if err := release(ctx, h.db, h.duty, h.id, h.lease.term); err != nil {
		h.log.Warn("duty not released", "duty", h.duty.Name, "err", err)
	}
}

func (h *holder) pause(ctx context.Context, wait time.Duration, wake <-chan struct{}) {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-wake:
	case <-timer.C:
	}
}

// backoff doubles from every up to a minute, or to every if that is longer, less a random fifth so that replicas part.
func backoff(every time.Duration, failed int) time.Duration {
	most := max(every, longestBackoff)
	wait := most
	if failed < 16 {
		wait = min(most, max(every, 10*time.Millisecond)<<(failed-1))
	}
	return wait - time.Duration(mathrand.Int64N(int64(wait)/5+1)) //nolint:gosec // spreads load, guards nothing
}
