package server

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"codeberg.org/dataverket/segl/ca/crl"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/duty"
	"codeberg.org/dataverket/segl/internal/web"
)

// status is what publishes the ledger: lists and OCSP.
type status struct {
	lists crl.Config
}

// openStatus makes the lists that are missing before anything is issued: a certificate never names a list that is not
// there.
func (s *Server) openStatus(ctx context.Context) error {
	s.status = &status{lists: crl.Config{Shards: s.ledger, Authorities: s.signers, Now: s.now}}
	builder := crl.New(s.status.lists)
	if err := builder.RunOnce(ctx); err != nil {
		return fmt.Errorf("making the first lists: %w", err)
	}
	s.duties = append(s.duties, duty.Duty{
		Name: "lists", Every: time.Second, Wake: s.revoked,
		Once: func(ctx context.Context, _ int64) error { return builder.RunOnce(ctx) },
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

// signers are the authorities as their lists' builder wants them.
func (s *Server) signers() []crl.Authority {
	var out []crl.Authority
	for _, a := range s.ca.Authorities() {
		out = append(out, crl.Authority{ID: a.ID, Name: a.Name, Certificate: a.Certificate, Key: a.Key, URL: s.cfg.URLs.Public + "/crl/" + a.Name + "/"})
	}
	return out
}

func (*status) drop(cert.Serial) {}
func (*status) dropAll()         {}

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

func (s *Server) publicDoors() []web.Door { return nil }
