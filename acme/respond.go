package acme

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
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

// Respond takes h's word that challenge m of authorization id is ready to be validated (RFC 8555 §7.5.1), once: asking
// again changes nothing. The authorization returned may be decided already.
//
// A validation that ends while its client waits costs one write, its outcome. Until then nothing was promised: if we die,
// the client was told nothing and asks again. Before it is told that the challenge is processing, the attempt is recorded.
func (s *Server) Respond(ctx context.Context, h Holder, id uid.UID, m Method) (Authorization, error) {
	if id.Kind() != uid.Authorization {
		return Authorization{}, notFound("challenge")
	}
	a, known := s.memory.claim(id, h.ID)
	if !known {
		var err error
		if a, err = s.Authorization(ctx, h, id); err != nil {
			return Authorization{}, err
		}
	}
	if _, has := a.Challenge(m); !has {
		return Authorization{}, notFound("challenge")
	}
	if a.Validation != nil || a.Attempt != nil || a.Status(s.Now()) != Pending {
		return a, nil
	}
	a.Attempt = &Attempt{Method: m, Asked: s.Now().UTC().Truncate(time.Microsecond)}
	j, first := s.pending.join(&job{Task: Task{a, h.Scope, h.Thumbprint}, ended: make(chan struct{})})
	if first {
		if done, err := s.start(ctx, h, j); done.Validation != nil || err != nil {
			return done, err
		}
	}
	return s.await(ctx, j)
}

// start gives j to a worker, unless an earlier job ended between our look and now: then it returns what that one found. An
// outcome is remembered before its job leaves pending, so one more look suffices.
func (s *Server) start(ctx context.Context, h Holder, j *job) (Authorization, error) {
	id := j.Authorization.ID
	a, known := s.memory.claim(id, h.ID)
	if !known {
		var err error
		if a, err = s.Authorization(ctx, h, id); err != nil {
			s.finish(j, nil)
			return Authorization{}, err
		}
	}
	if a.Validation != nil {
		s.finish(j, a.Validation)
		return a, nil
	}
	select {
	case s.jobs <- j:
	default: // too much at once: whoever has room takes it over
		s.finish(j, nil)
	}
	return a, nil
}

// await gives a quick validation the time to end, and records the attempt if it does not.
func (s *Server) await(ctx context.Context, j *job) (Authorization, error) {
	patience := time.NewTimer(max(0, s.Patience))
	defer patience.Stop()
	select {
	case <-j.ended:
	case <-patience.C:
	case <-ctx.Done(): // whoever asked has gone, and was promised nothing
		a := j.Authorization
		a.Attempt = nil
		return a, nil
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	a := j.Authorization
	if j.outcome != nil {
		a.Attempt, a.Validation = nil, j.outcome
		return a, nil
	}
	ask := Ask{Account: a.Account, Authorization: a.ID, Method: a.Attempt.Method, At: a.Attempt.Asked, Lease: lease}
	if j.over { // it was not settled: whoever has time takes it over
		ask.Lease = 0
	}
	a, ours, err := s.Store.Attempt(ctx, ask) // once; asked again, it reads

	if errors.Is(err, ErrNotFound) {
		return Authorization{}, notFound("challenge")
	}
	if err != nil {
		return Authorization{}, fmt.Errorf("recording an answer to authorization %s: %w", ask.Authorization, err)
	}
	j.queued = j.queued || Queued(ours || a.Attempt != nil)
	return a, nil
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
		case s.jobs <- &job{Task: t, queued: true, ended: make(chan struct{})}:
		default:
			if err := s.release(ctx, t.Authorization.ID); err != nil {
				return err
			}
		}
	}
	return nil
}

// validate performs one validation, with no transaction open, and settles it.
func (s *Server) validate(ctx context.Context, j *job) (err error) {
	var v *Validation
	defer func() { s.finish(j, v) }()
	defer func() { // what a stranger's server answers must not end the process
		if r := recover(); r != nil {
			err = fmt.Errorf("validating %s panicked: %v\n%s", j.Authorization.ID, r, debug.Stack())
		}
	}()
	a := j.Authorization
	m := a.Attempt.Method
	if !slices.Contains(MethodsFor(a.Name), m) {
		return fmt.Errorf("authorization %s: %s cannot prove %s", a.ID, m, a.Name) // the Store records none such
	}
	check := Check{Name: a.Name, Method: m, Token: a.Token.String(), KeyAuthorization: a.Token.String() + "." + j.Thumbprint} // RFC 8555 §8.1
	seen, p := s.Validator.Validate(ctx, check)
	j.mu.Lock() // nobody records the attempt while it is being settled
	defer j.mu.Unlock()
	if ctx.Err() != nil { // we are stopping, and the problem may be ours
		if !j.queued {
			return nil
		}
		return s.release(ctx, a.ID)
	}
	ended := Validation{Method: m, At: s.Now().UTC().Truncate(time.Microsecond), Problem: p}
	var facts []audit.Fact
	if p == nil {
		ended.Evidence = seen.String()
	} else {
		facts = append(facts, audit.Fact{
			At: ended.At, Who: Holder{Account: Account{ID: a.Account, Scope: j.Scope}}.Caller(), Scope: j.Scope, What: audit.Validate, Refused: true,
			Subject: a.Name.String(), Why: string(m) + ": " + p.Error(),
		})
	}
	// The outcome is recorded even if we are told to stop meanwhile: it was found out.
	finish, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
	defer cancel()
	counts, err := s.Store.Settle(finish, a.ID, j.queued, ended, facts...)
	if err != nil {
		return fmt.Errorf("recording the validation of %s: %w", a.ID, err)
	}
	if counts { // else another replica's does, and whoever waits reads it
		v = &ended
		s.memory.settled(a.ID, ended)
	}
	return nil
}
