package acme

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/uid"
)

// Bounds of validation. The lease exceeds what a Validator may take, so that a living replica never loses one.
const (
	lease         = 45 * time.Second
	pollEvery     = 5 * time.Second
	takeOverLimit = 32
	queuedJobs    = 256
	settleTimeout = 10 * time.Second
)

// A job is a task that this replica leased. done has room for its outcome.
type job struct {
	Task
	done chan Validation
}

// Respond takes h's word that challenge m of authorization id is ready to be validated (RFC 8555 §7.5.1), once: asking
// again changes nothing. The authorization returned may be decided already.
func (s *Server) Respond(ctx context.Context, h Holder, id uid.UID, m Method) (Authorization, error) {
	if id.Kind() != uid.Authorization {
		return Authorization{}, notFound("challenge")
	}
	a, ours, err := s.Store.Attempt(ctx, Ask{Account: h.ID, Authorization: id, Method: m, At: s.Now(), Lease: lease})
	if errors.Is(err, ErrNotFound) {
		return Authorization{}, notFound("challenge")
	}
	if err != nil {
		return Authorization{}, fmt.Errorf("recording an answer to authorization %s: %w", id, err)
	}
	if !ours {
		return a, nil
	}
	j := &job{Task{a, h.Scope, h.Thumbprint}, make(chan Validation, 1)}
	select {
	case s.jobs <- j:
	default: // too much at once: whoever has room takes it over
		return a, s.release(ctx, id)
	}
	return s.await(ctx, j), nil
}

// await gives a quick validation the time to end.
func (s *Server) await(ctx context.Context, j *job) Authorization {
	a := j.Authorization
	if s.Patience <= 0 {
		return a
	}
	patience := time.NewTimer(s.Patience)
	defer patience.Stop()
	select {
	case v := <-j.done:
		a.Attempt, a.Validation = nil, &v
	case <-patience.C:
	case <-ctx.Done():
	}
	return a
}

func (s *Server) release(ctx context.Context, id uid.UID) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
	defer cancel()
	if err := s.Store.Release(ctx, id); err != nil {
		return fmt.Errorf("giving authorization %s back to the queue: %w", id, err)
	}
	return nil
}

// Run validates until ctx ends: what clients of this replica ask, and what other replicas left behind. When it returns,
// nothing of it runs any more; what was not ended is left to others.
func (s *Server) Run(ctx context.Context) {
	var all sync.WaitGroup
	for range s.Workers {
		all.Go(func() { s.work(ctx) })
	}
	all.Go(func() { s.poll(ctx) })
	all.Wait()
}

func (s *Server) work(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case j := <-s.jobs:
			if err := s.validate(ctx, j); err != nil {
				s.Log.Error("validation not settled", "authorization", j.Authorization.ID.String(), "err", err)
			}
		}
	}
}

// poll takes over validations whose replica died. It suffices if nothing else tells of them.
func (s *Server) poll(ctx context.Context) {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := s.TakeOver(ctx); err != nil && ctx.Err() == nil {
			s.Log.Error("validations not taken over", "err", err)
		}
	}
}

// TakeOver leases validations whose lease has run out and queues them here.
func (s *Server) TakeOver(ctx context.Context) error {
	room := min(takeOverLimit, cap(s.jobs)-len(s.jobs))
	if room <= 0 {
		return nil
	}
	tasks, err := s.Store.TakeOver(ctx, lease, room)
	if err != nil {
		return fmt.Errorf("taking over validations: %w", err)
	}
	for _, t := range tasks {
		select {
		case s.jobs <- &job{t, make(chan Validation, 1)}:
		default:
			if err := s.release(ctx, t.Authorization.ID); err != nil {
				return err
			}
		}
	}
	return nil
}

// validate performs one validation, with no transaction open, and settles it.
func (s *Server) validate(ctx context.Context, j *job) error {
	a := j.Authorization
	m := a.Attempt.Method
	if !slices.Contains(MethodsFor(a.Name), m) {
		return fmt.Errorf("authorization %s: %s cannot prove %s", a.ID, m, a.Name) // the Store records none such
	}
	check := Check{Name: a.Name, Method: m, Token: a.Token.String(), KeyAuthorization: a.Token.String() + "." + j.Thumbprint} // RFC 8555 §8.1
	seen, p := s.Validator.Validate(ctx, check)
	if ctx.Err() != nil { // we are stopping, and the problem may be ours
		return s.release(ctx, a.ID)
	}
	v := Validation{Method: m, At: s.Now().UTC().Truncate(time.Microsecond), Problem: p}
	var facts []audit.Fact
	if p == nil {
		v.Evidence = seen.String()
	} else {
		facts = append(facts, audit.Fact{
			At: v.At, Who: Holder{Account: Account{ID: a.Account, Scope: j.Scope}}.Caller(), Scope: j.Scope, What: audit.Validate, Refused: true,
			Subject: a.Name.String(), Why: string(m) + ": " + p.Error(),
		})
	}
	// The outcome is recorded even if we are told to stop meanwhile: it was found out.
	finish, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
	defer cancel()
	if err := s.Store.Settle(finish, a.ID, v, facts...); err != nil {
		return fmt.Errorf("recording the validation of %s: %w", a.ID, err)
	}
	j.done <- v
	return nil
}
