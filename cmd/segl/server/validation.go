package server

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"codeberg.org/dataverket/segl/acme"
	acmeapi "codeberg.org/dataverket/segl/acme/api"
	"codeberg.org/dataverket/segl/acme/remote"
	"codeberg.org/dataverket/segl/acme/validate"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/uid"
)

// validation makes what asks the outside world: about names, and for permission to issue for them.
func (a *ACME) validation(own []netip.AddrPort, loopback bool, now func() time.Time) (*validate.Validator, error) {
	rules, err := a.rules()
	if err != nil {
		return nil, err
	}
	v, err := validate.New(validate.Config{
		Resolver: a.Resolver, HTTPPort: uint16(a.HTTPPort), TLSPort: uint16(a.TLSPort), //nolint:gosec // checked
		Egress: validate.Egress{Allowed: a.Allowed, Denied: a.Denied, Loopback: loopback, Own: own},
		Scopes: rules, CAA: validate.CAA{Identities: a.CAA.Identities, Private: a.CAA.Private}, Now: now,
	})
	if err != nil {
		return nil, fmt.Errorf("preparing ACME validation: %w", err)
	}
	return v, nil
}

// A proving is all by which names are proved.
type proving struct {
	world      *watched
	permission acme.Permission // nil: owners are not asked
	attester   acme.Attester   // nil: nobody's statements count
	drafts     []acme.Method
}

func (s *Server) openProving() (proving, error) {
	v, err := s.cfg.ACME.validation(s.listen.own(), s.cfg.loopback, s.now)
	if err != nil {
		return proving{}, err
	}
	places := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "segl_acme_perspective_answers_total", Help: "What became of asking a perspective: agreed, disagreed, or silent.",
	}, []string{"perspective", "outcome"})
	s.registry.MustRegister(places)
	all, err := s.cfg.ACME.Perspectives.around(v, s.now, func(name string, o remote.Outcome) { places.WithLabelValues(name, string(o)).Inc() })
	if err != nil {
		return proving{}, fmt.Errorf("preparing ACME validation: %w", err)
	}
	p := proving{world: watch(all, s.registry)}
	if len(s.cfg.ACME.CAA.Identities) > 0 {
		p.permission = p.world
	}
	if p.drafts, err = s.cfg.ACME.drafts(); err != nil {
		return proving{}, err
	}
	p.attester, err = s.cfg.ACME.Attestation.open(s.now)
	return p, err
}

// accountURL returns an account's URL at the listener that serves its scope.
func (u URLs) accountURL(scope identity.Scope, account uid.UID) string {
	base := u.Service
	if scope.IsPlatform() {
		base = u.Operator
	}
	return acmeapi.AccountURL(base, scope, account)
}

// A watched validator measures what the outside world answers. It changes nothing.
type watched struct {
	remote.Prover
	validations *prometheus.HistogramVec
	permissions *prometheus.CounterVec
}

func watch(p remote.Prover, r prometheus.Registerer) *watched {
	w := &watched{
		Prover: p,
		validations: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "segl_acme_validation_seconds", Help: "Time one try of a validation took, by method and by the problem it found, or none.",
			Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 20},
		}, []string{"method", "problem"}),
		permissions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "segl_acme_permissions_total", Help: "Times an owner's permission (CAA) was asked for, by the problem found, or none.",
		}, []string{"problem"}),
	}
	r.MustRegister(w.validations, w.permissions)
	return w
}

// Validate implements acme.Validator.
func (w *watched) Validate(ctx context.Context, c acme.Check) (acme.Evidence, *acme.Problem) {
	began := time.Now()
	seen, p := w.Prover.Validate(ctx, c)
	w.validations.WithLabelValues(string(c.Method), problemLabel(p)).Observe(time.Since(began).Seconds())
	return seen, p
}

// Permit implements acme.Permission.
func (w *watched) Permit(ctx context.Context, c acme.Check) *acme.Problem {
	p := w.Prover.Permit(ctx, c)
	w.permissions.WithLabelValues(problemLabel(p)).Inc()
	return p
}

func problemLabel(p *acme.Problem) string {
	if p == nil {
		return "none"
	}
	return string(p.Type)
}

// watchQueue shows how many validations wait here.
func watchQueue(s *acme.Server, r prometheus.Registerer) {
	r.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "segl_acme_validations_waiting", Help: "Validations that wait for a worker of this replica.",
	}, func() float64 { return float64(s.Waiting()) }))
}
