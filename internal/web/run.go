package web

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"
)

// A Listening is a server and where it listens.
type Listening struct {
	Server   *Server
	Listener net.Listener
}

// A Drain bounds how a process ends.
type Drain struct {
	Notice time.Duration // how long readiness says no before connections are refused, for load balancers to see it
	Within time.Duration // how long requests under way may take after that: 0 is 30 s
}

// Run serves until ctx ends or a server fails, then drains: first readiness says no, then all servers but the last finish
// what is under way, then the last (the private one: readiness can be read to the end). It returns when every server has
// returned, with what went wrong.
func Run(ctx context.Context, h *Health, d Drain, all ...Listening) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	errs := make([]error, len(all))
	var serving sync.WaitGroup
	for i, l := range all {
		serving.Go(func() {
			defer stop() // one that cannot go on ends all
			errs[i] = l.Server.Serve(l.Listener)
		})
	}
	<-ctx.Done()
	h.Drain()
	<-time.After(d.Notice)
	orElse(&d.Within, 30*time.Second)
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), d.Within)
	defer cancel()
	cut := shutdown(end, all)
	serving.Wait()
	return errors.Join(append(errs, cut)...)
}

// shutdown drains all but the last together, then the last.
func shutdown(ctx context.Context, all []Listening) error {
	if len(all) == 0 {
		return nil
	}
	errs := make([]error, len(all))
	last := len(all) - 1
	var wg sync.WaitGroup
	for i, l := range all[:last] {
		wg.Go(func() { errs[i] = l.Server.Shutdown(ctx) })
	}
	wg.Wait()
	errs[last] = all[last].Server.Shutdown(ctx)
	return errors.Join(errs...)
}
