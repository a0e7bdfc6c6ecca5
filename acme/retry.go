package acme

import (
	"context"
	"fmt"
	"time"
)

// DefaultRetries is a schedule for most networks: a record or a host that comes up within about half a minute is found.
func DefaultRetries() []time.Duration {
	return []time.Duration{2 * time.Second, 5 * time.Second, 20 * time.Second}
}

// transient reports whether p may be gone when m is tried again: the outside world did not answer, or did not show it yet.
// What shows something else than the key authorization, and an owner who forbids, will say the same again, but for the
// zone, whose servers and caches take time to agree.
func transient(m Method, p *Problem) bool {
	switch p.Type {
	case DNS, Connection, ServerInternal:
		return true
	case Unauthorized, IncorrectResponse:
		return m == DNS01 || m == DNSAccount01 || m == DNSPersist01 || p.Type == Unauthorized && m == HTTP01
	}
	return false
}

// later schedules the next try of j after it found p (RFC 8555 §8.2: "the server MAY retry …"). j.mu is held.
func (s *Server) later(ctx context.Context, j *job, p *Problem) error {
	a := j.Authorization
	tried := *a.Attempt
	tried.Problem = history(p, tried.Problem)
	tried.Next = s.Now().Add(s.Retries[j.Tries-1]).UTC().Truncate(time.Microsecond)
	finish, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
	defer cancel()
	if err := s.Store.Retry(finish, j.ask(), j.Tries, tried); err != nil {
		return fmt.Errorf("scheduling another validation of %s: %w", a.ID, err)
	}
	j.queued = true
	s.memory.attempted(a.ID, tried)
	return nil
}

// history puts p before what earlier tries found. RFC 8555 §8.2: "The server MUST add an entry to the "error" field in the
// challenge after each failed validation query": a problem document has one place for several, its subproblems.
func history(p, earlier *Problem) *Problem {
	if earlier == nil {
		return p
	}
	all := *p
	before := earlier.Subproblems
	if len(before) == 0 {
		before = []*Problem{earlier}
	}
	latest := *p
	all.Subproblems = append([]*Problem{&latest}, before...)
	return &all
}
