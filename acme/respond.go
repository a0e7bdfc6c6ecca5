package acme

import (
	"context"
	"errors"
	"fmt"
	"time"

	"codeberg.org/dataverket/segl/internal/uid"
)

// An Answer is an account's word that a challenge is ready (RFC 8555 §7.5.1).
type Answer struct {
	Authorization uid.UID
	Method        Method
	Payload       []byte // the object that was sent, for methods that prove by it
}

// Respond takes h's word that a challenge is ready to be validated (RFC 8555 §7.5.1), once: saying it again changes nothing.
// The authorization returned may be decided already.
//
// A validation that ends while its client waits costs one write, its outcome. Until then nothing was promised: if we die,
// the client was told nothing and asks again. Before it is told that the challenge is processing, the attempt is recorded.
func (s *Server) Respond(ctx context.Context, h Holder, said Answer) (Authorization, error) {
	id, m := said.Authorization, said.Method
	if m != DeviceAttest01 { // no other proves by it
		said.Payload = nil
	}
	if id.Kind() != uid.Authorization || !s.Offers(m) {
		return Authorization{}, notFound("challenge")
	}
	a, known := s.memory.claim(id, h.ID)
	if !known || a.Attempt != nil { // another replica may have tried it since
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
	if err := s.limitTry(ctx, h, a.Name); err != nil {
		return Authorization{}, err
	}
	a.Attempt = &Attempt{Method: m, Asked: s.Now().UTC().Truncate(time.Microsecond)}
	j, first := s.pending.join(newJob(Task{Authorization: a, Scope: h.Scope, Thumbprint: h.Thumbprint, Payload: said.Payload, Tries: 1}))
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
	if !s.line.put(j) { // too much at once: whoever has room takes it over
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
	ask := j.ask()
	if j.over { // it was not settled: whoever has time takes it over
		ask.Lease = 0
	}
	a, ours, err := s.Store.Attempt(ctx, ask) // once; asked again, it reads
	switch {
	case errors.Is(err, ErrNotFound):
		return Authorization{}, notFound("challenge")
	case errors.Is(err, ErrQueueFull):
		return Authorization{}, queueFull()
	case err != nil:
		return Authorization{}, fmt.Errorf("recording an answer to authorization %s: %w", ask.Authorization, err)
	}
	j.queued = j.queued || Queued(ours || a.Attempt != nil)
	return a, nil
}
