package server

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/ca/incident"
	"codeberg.org/dataverket/segl/ca/ledger"
	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/duty"
)

// openLever makes the desk at which incidents are taken in, and the duty that carries them out.
func (s *Server) openLever(context.Context) error {
	s.desk = incident.New(incident.Config{
		Site: byte(s.cfg.Site), Book: book{s.ledger, s.ended, s.now}, Profiles: s.ca.ProfileNames, Longest: ca.LongestLife, Now: s.now, Guard: s.access.Guard, //nolint:gosec // checked
	})
	s.duties = append(s.duties, duty.Duty{
		Name: "incidents", Every: 5 * time.Second, Wake: s.incidents,
		Once: func(ctx context.Context, _ int64) error { return s.desk.RunOnce(ctx) },
	})
	s.openDeletions()
	return nil
}

// A book tells this replica's caches of a revocation of many before whoever asked gets the answer; others hear by notice. And
// it answers when the second is over of which everything is touched: what is issued from the answer on is not.
type book struct {
	*ledger.Ledger
	ended func(cert.Serial)
	now   func() time.Time
}

// Record implements incident.Book.
func (b book) Record(ctx context.Context, i incident.Incident, f audit.Fact) error {
	err := b.Ledger.Record(ctx, i, f)
	if !i.Everything {
		return err
	}
	b.ended(cert.Serial{})
	select {
	case <-ctx.Done():
	case <-time.After(min(i.Choice.To.Sub(b.now()), time.Second)):
	}
	return err
}

// wake has somebody look who may be looking already.
func wake(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default: // already woken
	}
}

// trust takes the anchors of the moment: a new pool is a new pointer.
func (s *Server) trust() {
	pool := x509.NewCertPool()
	for _, r := range s.ca.Roots() {
		pool.AddCert(r)
	}
	s.roots.Store(pool)
}

// authorities reads the authorities again whenever one may have changed, until ctx ends: what a replica has prepared or activated
// all of them trust, list, answer for and sign with.
func (s *Server) authorities(ctx context.Context) {
	const every = 30 * time.Second // in case a notice is missed
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.changed:
		case <-time.After(every):
		}
		if err := s.reloadAuthorities(ctx); err != nil && ctx.Err() == nil {
			s.log.Error("authorities not reloaded", "err", err)
		}
	}
}

func (s *Server) reloadAuthorities(ctx context.Context) error {
	if err := s.ca.Reload(ctx); err != nil {
		return err
	}
	s.trust()
	wake(s.revoked)                        // one may have no list yet
	return s.status.responder.RunOnce(ctx) // enrols where there is no delegate: preparing one has reloaded already
}

// published waits until every list is there that a certificate may name, and returns why a prepared authority may not sign yet if
// that takes too long.
func (s *Server) published(ctx context.Context, _ *ca.Authority) error {
	const most, retry = 15 * time.Second, 200 * time.Millisecond
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	for {
		missing, err := s.missingList(ctx)
		if missing == "" || err != nil {
			return err
		}
		wake(s.revoked)
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: the list of %s is not there", errUnpublished, missing)
		case <-time.After(retry):
		}
	}
}

var errUnpublished = errors.New("not published")
