package server

import (
	"context"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/cert"
)

// An observedLedger measures the writes that make the ledger: how many, how they ended, how long they took. It changes
// nothing else, but tells this replica's caches of a revocation.
type observedLedger struct {
	ca.Ledger
	writes  *prometheus.HistogramVec
	issued  *prometheus.CounterVec
	revoked *prometheus.CounterVec
	refused *prometheus.CounterVec
	gone    prometheus.Counter
	ended   func(cert.Serial) // told before whoever revoked gets the answer; other replicas hear by notice
}

func observe(l ca.Ledger, r prometheus.Registerer, ended func(cert.Serial)) *observedLedger {
	o := &observedLedger{
		Ledger: l, ended: ended,
		writes: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "segl_ledger_write_seconds", Help: "Time one write waited for its durable group commit, by kind of write and how it ended.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}, []string{"write", "outcome"}),
		issued: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "segl_certificates_issued_total", Help: "Certificates issued and durable, by the fact they became.",
		}, []string{"what"}),
		revoked: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "segl_certificates_revoked_total", Help: "Certificates revoked, by reason.",
		}, []string{"reason"}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "segl_refusals_total", Help: "Requests that a rule refused, by what was asked.",
		}, []string{"what"}),
		gone: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "segl_intents_abandoned_total", Help: "Intents found open after their deadline and put on the CRL.",
		}),
	}
	r.MustRegister(o.writes, o.issued, o.revoked, o.refused, o.gone)
	return o
}

func (o *observedLedger) write(kind string, began time.Time, err error) {
	outcome := "done"
	switch {
	case errors.Is(err, ca.ErrUnavailable):
		outcome = "unavailable"
	case errors.Is(err, ca.ErrOriginTaken), errors.Is(err, ca.ErrCallerRevoked), errors.Is(err, ca.ErrKeyBlocked), errors.Is(err, ca.ErrSuspended),
		errors.Is(err, ca.ErrAlreadyRevoked), errors.Is(err, ca.ErrSettled), errors.Is(err, ca.ErrNotFound):
		outcome = "refused"
	case err != nil:
		outcome = "unknown"
	}
	o.writes.WithLabelValues(kind, outcome).Observe(time.Since(began).Seconds())
}

// Intend implements ca.Ledger.
func (o *observedLedger) Intend(ctx context.Context, in ca.Intent) error {
	began := time.Now()
	err := o.Ledger.Intend(ctx, in)
	o.write("intend", began, err)
	return err
}

// Complete implements ca.Ledger.
func (o *observedLedger) Complete(ctx context.Context, c ca.Completion) error {
	began := time.Now()
	err := o.Ledger.Complete(ctx, c)
	o.write("complete", began, err)
	if err == nil {
		o.issued.WithLabelValues(c.Facts[0].What).Inc()
	}
	return err
}

// Revoke implements ca.Ledger.
func (o *observedLedger) Revoke(ctx context.Context, r ca.Revocation) error {
	began := time.Now()
	err := o.Ledger.Revoke(ctx, r)
	o.write("revoke", began, err)
	if err == nil {
		o.ended(r.Serial)
		o.revoked.WithLabelValues(r.Reason.String()).Inc()
	}
	return err
}

// Refuse implements ca.Ledger.
func (o *observedLedger) Refuse(ctx context.Context, f audit.Fact) error {
	began := time.Now()
	err := o.Ledger.Refuse(ctx, f)
	o.write("refuse", began, err)
	o.refused.WithLabelValues(f.What).Inc()
	return err
}

// Abandon implements ca.Ledger.
func (o *observedLedger) Abandon(ctx context.Context, before time.Time, f audit.Fact) ([]cert.Serial, error) {
	gone, err := o.Ledger.Abandon(ctx, before, f)
	o.gone.Add(float64(len(gone)))
	return gone, err
}
