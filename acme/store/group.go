package store

import (
	"context"
	"fmt"
	"sync"
	"time"

	"codeberg.org/dataverket/segl/internal/postgres"
)

// Bounds of a group.
const (
	groupSize    = 128  // in a round trip
	groupEnough  = 8    // for which nothing lingers
	groupQueue   = 1024 // waiting
	gateLinger   = 2 * time.Millisecond
	commitLinger = 3 * time.Millisecond // about as long as a disk takes
	groupTimeout = 10 * time.Second
)

// A group runs what many ask at once in few round trips: while one is under way the next gathers, so that an idle server
// answers at once and a busy one commits many a trip. Where the last trip served several, the next lingers for a moment: more
// are coming, and a trip costs nearly the same for all of them. What run fills in of an entry may be read when do returns nil.
type group[T any] struct {
	run    func(context.Context, []T) error
	linger time.Duration
	queue  chan *asked[T]
	wait   sync.WaitGroup
}

type asked[T any] struct {
	entry T
	err   error
	done  chan struct{}
}

func newGroup[T any](linger time.Duration, run func(context.Context, []T) error) *group[T] {
	g := &group[T]{run: run, linger: linger, queue: make(chan *asked[T], groupQueue)}
	g.wait.Go(g.work)
	return g
}

// close waits for what is under way. Nobody may ask any more.
func (g *group[T]) close() {
	close(g.queue)
	g.wait.Wait()
}

// do has entry run. When ctx ends first, it may run all the same.
func (g *group[T]) do(ctx context.Context, entry T) error {
	a := &asked[T]{entry: entry, done: make(chan struct{})}
	select {
	case g.queue <- a:
	case <-ctx.Done():
		return fmt.Errorf("waiting for the database: %w", ctx.Err())
	}
	select {
	case <-a.done:
		return a.err
	case <-ctx.Done():
		return fmt.Errorf("waiting for the database: %w", ctx.Err())
	}
}

func (g *group[T]) work() {
	busy := false
	for first := range g.queue {
		all := g.drain([]*asked[T]{first})
		if busy && len(all) < groupEnough {
			all = g.gather(all)
		}
		busy = len(all) > 1
		g.answer(all)
	}
}

// drain adds what waits.
func (g *group[T]) drain(all []*asked[T]) []*asked[T] {
	for len(all) < groupSize {
		select {
		case next, ok := <-g.queue:
			if !ok {
				return all
			}
			all = append(all, next)
		default:
			return all
		}
	}
	return all
}

// gather adds what comes while it lingers, until it has enough.
func (g *group[T]) gather(all []*asked[T]) []*asked[T] {
	end := time.NewTimer(g.linger)
	defer end.Stop()
	for len(all) < groupEnough {
		select {
		case next, ok := <-g.queue:
			if !ok {
				return all
			}
			all = append(all, next)
		case <-end.C:
			return all
		}
	}
	return g.drain(all)
}

// answer runs all together, and each by itself if the database refused them: then only the one at fault is refused.
func (g *group[T]) answer(all []*asked[T]) {
	err := g.try(all)
	if err != nil && len(all) > 1 && !postgres.InDoubt(err) && !postgres.Unavailable(err) {
		for _, a := range all {
			a.err = g.try([]*asked[T]{a})
		}
	} else {
		for _, a := range all {
			a.err = err
		}
	}
	for _, a := range all {
		close(a.done)
	}
}

func (g *group[T]) try(all []*asked[T]) error {
	ctx, cancel := context.WithTimeout(context.Background(), groupTimeout) // the group belongs to no single request
	defer cancel()
	entries := make([]T, len(all))
	for i, a := range all {
		entries[i] = a.entry
	}
	return g.run(ctx, entries)
}
