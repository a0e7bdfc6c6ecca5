package server

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	caapi "codeberg.org/dataverket/segl/ca/api"
	"codeberg.org/dataverket/segl/ca/crl"
	"codeberg.org/dataverket/segl/ca/ledger"
	"codeberg.org/dataverket/segl/ca/ocsp"
	sealapi "codeberg.org/dataverket/segl/ca/seal/api"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/duty"
	"codeberg.org/dataverket/segl/internal/postgres"
	"codeberg.org/dataverket/segl/internal/uid"
	"codeberg.org/dataverket/segl/internal/web"
)

// status is what publishes the ledger: lists and OCSP.
type status struct {
	lists     crl.Config
	responder *ocsp.Responder
	receipts  *receipts
}

// openStatus makes the lists that are missing before anybody is served: a certificate that leaves never names a list that
// is not there.
func (s *Server) openStatus(ctx context.Context) error {
	kept := newReceipts(s.ledger, s.reach, s.registry, s.log)
	s.status = &status{receipts: kept, lists: crl.Config{Shards: s.ledger, Authorities: s.signers, Now: s.now, Published: kept.published}}
	builder := crl.New(s.status.lists)
	lists := duty.Duty{Name: crl.Duty, Every: time.Second, Wake: s.revoked, Once: builder.RunOnce}
	if err := s.firstLists(ctx, lists); err != nil {
		return fmt.Errorf("making the first lists: %w", err)
	}
	s.status.responder = ocsp.New(ocsp.Config{Ledger: s.ledger, Enroller: s.ca, Authorities: s.answerers, Now: s.now, ByName: s.cfg.OCSP.ByName, Told: kept.gathered.Add})
	kept.responder = s.status.responder
	s.status.responder.Deafen() // until the notices arrive
	if err := s.status.responder.RunOnce(ctx); err != nil {
		return err
	}
	lists.Once = paced(listsGap, s.others(lists.Once))
	s.duties = append(s.duties, lists, kept.duty())
	s.openChecker()
	s.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "segl_lists_next_update_seconds", Help: "Unix time at which the first of the live lists ends.",
	}, func() float64 {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second) // a scrape has no context
		defer cancel()
		ends, err := s.ledger.ListsEnd(postgres.AsOwner(ctx), s.now())
		if err != nil {
			return 0
		}
		return float64(ends.Unix())
	}))
	return nil
}

// firstLists runs the duty until every list is there that a certificate may name. Another replica that holds the duty makes them
// as well as we, and one that was killed holds it for as long as its lease lasts.
func (s *Server) firstLists(ctx context.Context, lists duty.Duty) error {
	const retry = 200 * time.Millisecond
	for {
		ran, err := duty.Once(ctx, s.db, lists)
		if err != nil {
			return err
		}
		missing, err := s.missingList(ctx)
		if err != nil || ran || missing == "" {
			return err
		}
		s.log.Info("waiting for a list", "list", missing)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(retry):
		}
	}
}

// missingList names a list of the present epoch that is not there.
func (s *Server) missingList(ctx context.Context) (string, error) {
	e := uid.EpochOf(s.now())
	for _, a := range s.signers() {
		parts, err := s.ledger.Parts(ctx, a.ID, e)
		if err != nil {
			return "", err
		}
		for p := range parts {
			_, err := s.ledger.Head(ctx, crl.Shard{Authority: a.ID, Epoch: e, Part: uint8(p)}) //nolint:gosec // 256 at most
			if errors.Is(err, crl.ErrNotFound) {
				return fmt.Sprintf("%s, epoch %d, part %d", a.Name, e, p), nil
			}
			if err != nil {
				return "", err
			}
		}
	}
	return "", nil
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

// others has a list that cannot be made hold up no other: the Builder tries it again by itself.
func (s *Server) others(once func(context.Context, int64) error) func(context.Context, int64) error {
	return func(ctx context.Context, term int64) error {
		err := once(ctx, term)
		if ctx.Err() != nil || !errors.Is(err, crl.ErrUnmade) {
			return err
		}
		s.log.Error("lists not made", "duty", crl.Duty, "term", term, "err", err)
		return nil
	}
}

// signers are the authorities as their lists' builder wants them: those whose keys are here.
func (s *Server) signers() []crl.Authority {
	return slices.DeleteFunc(s.listed(), func(a crl.Authority) bool { return a.Key == nil })
}

// listed are the authorities whose lists are served: also offline roots, of which there is the whole list alone.
func (s *Server) listed() []crl.Authority {
	var out []crl.Authority
	for _, a := range s.ca.Authorities() {
		life := crl.LeafLife
		if a.Parent() == nil {
			life = crl.RootLife
		}
		out = append(out, crl.Authority{
			ID: a.ID, Name: a.Name, Certificate: a.Certificate, Key: a.Key, URL: s.cfg.URLs.Public + "/crl/" + a.Name + "/", Life: life,
			NoWhole: slices.Contains(s.cfg.Lists.WithoutWhole, a.Name),
		})
	}
	return out
}

// reach is what may still be revoked and published.
func (s *Server) reach() []crl.Reach {
	var out []crl.Reach
	for _, a := range s.signers() {
		out = append(out, a.Reach(s.now()))
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
		if a.Offline() {
			continue // nobody answers for it: what it certified names no responder
		}
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
	served := s.status.lists
	served.Authorities, served.Shards = s.listed, ledger.Offline{Shards: s.ledger}
	lists := crl.NewServer(served)
	bundle := func(ctx context.Context) (caapi.Bundle, error) { return lists.Bundle(ctx) }
	return []web.Door{caapi.Public(caapi.PublicConfig{CA: s.ca, Lists: lists, OCSP: s.status.responder, Bundle: bundle, Tokens: s.tokenKeys, Below: below()}), sealapi.Public(s.sealDoor())}
}
