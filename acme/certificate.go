package acme

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/internal/uid"
)

// Certificate returns the certificate of h's order id.
func (s *Server) Certificate(ctx context.Context, h Holder, id uid.UID) (ca.Certificate, error) {
	if id.Kind() != uid.Order {
		return ca.Certificate{}, notFound("certificate")
	}
	if c, owner, ok := s.recent.get(id); ok && owner == h.ID {
		return c, nil
	}
	owner, err := s.Store.OrderAccount(ctx, id)
	if errors.Is(err, ErrNotFound) || err == nil && owner != h.ID {
		return ca.Certificate{}, notFound("certificate")
	}
	if err != nil {
		return ca.Certificate{}, fmt.Errorf("reading order %s: %w", id, err)
	}
	c, err := s.Issuer.ByOrigin(ctx, ca.Origin{ID: id})
	if errors.Is(err, ca.ErrNotFound) || errors.Is(err, ca.ErrInProgress) {
		return ca.Certificate{}, notFound("certificate")
	}
	if err != nil {
		return ca.Certificate{}, fmt.Errorf("reading the certificate of order %s: %w", id, err)
	}
	return c, nil
}

// recent remembers the certificates just issued, since clients fetch them at once. What it holds never changes.
type recent struct {
	mu   sync.Mutex
	ring [recentCertificates]uid.UID
	next int
	all  map[uid.UID]issued
}

type issued struct {
	owner       uid.UID
	certificate ca.Certificate
}

const recentCertificates = 256

func newRecent() *recent { return &recent{all: make(map[uid.UID]issued, recentCertificates)} }

func (r *recent) put(order, owner uid.UID, c ca.Certificate) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.all, r.ring[r.next])
	r.ring[r.next] = order
	r.next = (r.next + 1) % len(r.ring)
	r.all[order] = issued{owner, c}
}

func (r *recent) get(order uid.UID) (c ca.Certificate, owner uid.UID, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	i, ok := r.all[order]
	return i.certificate, i.owner, ok
}
