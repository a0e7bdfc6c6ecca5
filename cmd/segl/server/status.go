package server

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	caapi "codeberg.org/dataverket/segl/ca/api"
	"codeberg.org/dataverket/segl/ca/crl"
	"codeberg.org/dataverket/segl/ca/ocsp"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/duty"
	"codeberg.org/dataverket/segl/internal/web"
)

// status is what publishes the ledger: lists and OCSP.
type status struct {
	lists     crl.Config
	responder *ocsp.Responder
}

// openStatus makes the lists that are missing before anybody is served: a certificate that leaves never names a list that
// is not there.
func (s *Server) openStatus(ctx context.Context) error {
	s.status = &status{lists: crl.Config{Shards: s.ledger, Authorities: s.signers, Now: s.now}}
	builder := crl.New(s.status.lists)
	if err := builder.RunOnce(ctx); err != nil {
		return fmt.Errorf("making the first lists: %w", err)
	}
	s.status.responder = ocsp.New(ocsp.Config{Ledger: s.ledger, Enroller: s.ca, Authorities: s.answerers, Now: s.now})
	if err := s.status.responder.RunOnce(ctx); err != nil {
		return err
	}
	s.duties = append(s.duties, duty.Duty{
		Name: "lists", Every: time.Second, Wake: s.revoked,
		Once: paced(listsGap, func(ctx context.Context, _ int64) error { return builder.RunOnce(ctx) }),
	})
	s.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "segl_lists_next_update_seconds", Help: "Unix time at which the first of the live lists ends.",
	}, func() float64 {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second) // a scrape has no context
		defer cancel()
		ends, err := s.ledger.ListsEnd(ctx, s.now())
		if err != nil {
			return 0
		}
		return float64(ends.Unix())
	}))
	return nil
}

// listsGap is the least time between two runs of the lists duty: revocations that come together share a list, and a list
// is still there well within a second.
const listsGap = 500 * time.Millisecond

// paced returns once with at least gap between the end of one run and the beginning of the next. A duty is one goroutine.
func paced(gap time.Duration, once func(context.Context, int64) error) func(context.Context, int64) error {
	var ended time.Time
	return func(ctx context.Context, term int64) error {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(gap - time.Since(ended)):
		}
		defer func() { ended = time.Now() }()
		return once(ctx, term)
	}
}

// signers are the authorities as their lists' builder wants them.
func (s *Server) signers() []crl.Authority {
	var out []crl.Authority
	for _, a := range s.ca.Authorities() {
		out = append(out, crl.Authority{ID: a.ID, Name: a.Name, Certificate: a.Certificate, Key: a.Key, URL: s.cfg.URLs.Public + "/crl/" + a.Name + "/"})
	}
	return out
}

// drop forgets what was answered about a serial that has been revoked; the zero Serial, about all.
func (s *status) drop(serial cert.Serial) { s.responder.Drop(serial) }

// delegates keeps this replica's OCSP responders enrolled until ctx ends. Their keys are in its memory alone, so each
// replica does this for itself.
func (s *Server) delegates(ctx context.Context) {
	const every, retry = 10 * time.Minute, 5 * time.Second
	for wait := every; ; {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		wait = every
		if err := s.status.responder.RunOnce(ctx); err != nil && ctx.Err() == nil {
			s.log.Error("ocsp responder not enrolled", "err", err)
			wait = retry
		}
	}
}

// answerers are the authorities as the OCSP responder wants them.
func (s *Server) answerers() []ocsp.Authority {
	var out []ocsp.Authority
	for _, a := range s.ca.Authorities() {
		out = append(out, ocsp.Authority{ID: a.ID, Name: a.Name, Certificate: a.Certificate})
	}
	return out
}

// probeLists fails when a list is about to end: who checks lists then lets nobody in.
func (s *Server) probeLists(ctx context.Context) error {
	ends, err := s.ledger.ListsEnd(ctx, s.now())
	if err != nil {
		return errors.New("the database does not answer")
	}
	if left := ends.Sub(s.now()); left < listAlarm {
		return fmt.Errorf("a list ends in %s and was not replaced: see the log of the lists duty", left.Round(time.Minute))
	}
	return nil
}

func (s *Server) publicDoors() []web.Door {
	lists := crl.NewServer(s.status.lists)
	return []web.Door{caapi.Public(caapi.PublicConfig{CA: s.ca, Lists: lists, OCSP: s.status.responder, AllLists: lists.PEM, Below: below()})}
}
