package acme

import (
	"context"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/uid"
)

// Bounds of validation. The lease exceeds what a Validator and a Permission may take, so that a living replica never loses
// one.
const (
	lease         = time.Minute
	pollEvery     = time.Second
	takeOverLimit = 32
	settleTimeout = 10 * time.Second
)

// Run validates until ctx ends: what clients of this replica ask, what other replicas left behind, and what is due to be
// tried again. When it returns, nothing of it runs any more; what was not ended is left to others.
func (s *Server) Run(ctx context.Context) {
	stop := context.AfterFunc(ctx, s.line.close)
	defer stop()
	var all sync.WaitGroup
	for range s.Workers {
		all.Go(func() { s.work(ctx) })
	}
	all.Go(func() { s.poll(ctx) })
	all.Wait()
}

func (s *Server) work(ctx context.Context) {
	for j := s.line.take(ctx); j != nil; j = s.line.take(ctx) {
		err := s.validate(ctx, j)
		s.line.done(j)
		if err != nil {
			s.Log.Error("validation not settled", "authorization", j.Authorization.ID.String(), "err", err)
		}
	}
}

// poll takes over validations that are due and nobody is at. It suffices if nothing else tells of them.
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

// Waiting returns how many validations wait for a worker of this replica.
func (s *Server) Waiting() int { return lineMost - s.line.room() }

// TakeOver leases validations that are due and whose lease has run out, and queues them here.
func (s *Server) TakeOver(ctx context.Context) error {
	room := min(takeOverLimit, s.line.room())
	if room <= 0 {
		return nil
	}
	tasks, err := s.Store.TakeOver(ctx, s.Now(), lease, room)
	if err != nil {
		return fmt.Errorf("taking over validations: %w", err)
	}
	for _, t := range tasks {
		if s.line.waits(t) { // its lease ran out before its turn came
			continue
		}
		j := newJob(t)
		j.queued = true
		if !s.line.put(j) {
			if err := s.release(ctx, t.Authorization.ID); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *Server) release(ctx context.Context, id uid.UID) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
	defer cancel()
	if err := s.Store.Release(ctx, id); err != nil {
		return fmt.Errorf("giving authorization %s back to the queue: %w", id, err)
	}
	return nil
}

// validate performs one validation, with no transaction open, and settles it or schedules the next try.
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
	if !slices.Contains(a.Methods(), m) {
		return fmt.Errorf("authorization %s: %s cannot prove %s", a.ID, m, a.Name) // the Store records none such
	}
	if acct, known := s.accounts.get(a.Account); known && acct.Status() == Deactivated {
		return nil // RFC 8555 §7.3.6: its operations end with it; the queue was emptied of them
	}
	if ours, err := s.begins(ctx, j); err != nil || !ours {
		return err
	}
	seen, p := s.look(ctx, j.Task)
	j.mu.Lock() // nobody records the attempt while it is being settled
	defer j.mu.Unlock()
	if ctx.Err() != nil { // we are stopping, and the problem may be ours
		if !j.queued {
			return nil
		}
		return s.release(ctx, a.ID)
	}
	if p != nil && transient(m, p) && j.Tries <= len(s.Retries) {
		return s.later(ctx, j, p)
	}
	ended := Validation{Method: m, At: s.Now().UTC().Truncate(time.Microsecond), Problem: p}
	if p == nil {
		ended.Evidence = seen.String()
	} else if j.Authorization.Attempt.Problem != nil {
		ended.Problem = history(p, a.Attempt.Problem)
	}
	counts, err := s.settle(ctx, j, ended)
	if counts { // else another replica's does, and whoever waits reads it
		v = &ended
	}
	return err
}

// begins says that j's try begins, if it is recorded: waiting in line may have taken longer than its lease, and is no try.
// False: somebody else is at it.
func (s *Server) begins(ctx context.Context, j *job) (bool, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if !j.queued {
		return true, nil
	}
	ours, err := s.Store.Begin(ctx, j.Task, lease)
	if err != nil {
		return false, fmt.Errorf("beginning to validate %s: %w", j.Authorization.ID, err)
	}
	return ours, nil
}

// look asks the outside world: first whether the name's holder shows the key authorization, then whether its owner lets us
// issue (RFC 8659 §3: "Before issuing a certificate, a compliant CA MUST check …").
func (s *Server) look(ctx context.Context, t Task) (Evidence, *Problem) {
	a := t.Authorization
	check := Check{
		Scope: t.Scope, Account: s.accountURL(a.Account, t.Scope), Name: a.Name, Method: a.Attempt.Method, Token: a.Token.String(),
		KeyAuthorization: a.Token.String() + "." + t.Thumbprint, Payload: t.Payload, // RFC 8555 §8.1
	}
	if check.Method == DeviceAttest01 {
		return s.attest(check)
	}
	seen, p := s.Validator.Validate(ctx, check)
	if p == nil && s.Permission != nil {
		p = s.Permission.Permit(ctx, check)
	}
	return seen, p
}

// attest judges a device's statement. Nobody owns its name: there is no permission to ask for.
func (s *Server) attest(c Check) (Evidence, *Problem) {
	if s.Attester == nil { // it was switched off since the attempt was recorded
		return Evidence{}, problem(Malformed, "statements of devices are not judged here any more")
	}
	return s.Attester.Attest(c)
}

// settle records how j ended. That happens even if we are told to stop meanwhile: it was found out. j.mu is held.
func (s *Server) settle(ctx context.Context, j *job, ended Validation) (bool, error) {
	a := j.Authorization
	var facts []audit.Fact
	if p := ended.Problem; p != nil {
		facts = append(facts, audit.Fact{
			At: ended.At, Who: Holder{Account: Account{ID: a.Account, Scope: j.Scope}}.Caller(), Scope: j.Scope, What: audit.Validate, Refused: true,
			Subject: a.Name.String(), Why: string(ended.Method) + ": " + p.Error(),
		})
	}
	finish, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
	defer cancel()
	counts, err := s.Store.Settle(finish, a.ID, j.queued, ended, facts...)
	if err != nil {
		return false, fmt.Errorf("recording the validation of %s: %w", a.ID, err)
	}
	if !counts {
		return false, nil
	}
	s.memory.settled(a.ID, ended)
	if ended.Problem != nil {
		if err := s.failed(finish, a.Account, j.Scope, a.Name); err != nil {
			s.Log.Error("failed validation not counted", "authorization", a.ID.String(), "err", err)
		}
	}
	return true, nil
}
