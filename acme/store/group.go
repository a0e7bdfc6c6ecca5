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
	groupQueue   = 1024 // waiting
	groupTimeout = 10 * time.Second
)

// A group runs what many ask at once in few round trips: while one is under way the next gathers, so that an idle server
// answers at once and a busy one commits many a trip. What run fills in of an entry may be read when do returns nil.
type group[T any] struct {
	run   func(context.Context, []T) error
	queue chan *asked[T]
	wait  sync.WaitGroup
}

type asked[T any] struct {
	entry T
	err   error
	done  chan struct{}
}

func newGroup[T any](run func(context.Context, []T) error) *group[T] {
	g := &group[T]{run: run, queue: make(chan *asked[T], groupQueue)}
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
	for first := range g.queue {
		all := []*asked[T]{first}
	gather:
		for len(all) < groupSize {
			select {
			case next, ok := <-g.queue:
				if !ok {
					break gather
				}
				all = append(all, next)
			default:
				break gather
			}
		}
		g.answer(all)
	}
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
