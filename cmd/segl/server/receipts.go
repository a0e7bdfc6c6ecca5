package server

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"codeberg.org/dataverket/segl/ca/crl"
	"codeberg.org/dataverket/segl/ca/ledger"
	"codeberg.org/dataverket/segl/ca/ocsp"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/duty"
)

// receipts sees that each revocation is told of by OCSP, once at least and soon, and that which answer did is on record; and
// measures how late lists and answers are.
type receipts struct {
	ledger    *ledger.Ledger
	responder *ocsp.Responder
	gathered  *ocsp.Receipts // of what clients asked for
	within    func() []crl.Reach
	wake      chan struct{}
	late      *prometheus.HistogramVec
	log       *slog.Logger

	term int64        // below: the duty's own
	upto crl.Snapshot // what ended up to there has been seen to
}

// receiptsAtOnce is how many revocations are answered for between two looks at the clock.
const receiptsAtOnce = 500

func newReceipts(l *ledger.Ledger, within func() []crl.Reach, r prometheus.Registerer, log *slog.Logger) *receipts {
	late := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "segl_revocation_published_seconds", Help: "Time from asking for a revocation to the first list, or the first OCSP answer, that told of it.",
		Buckets: []float64{.01, .025, .05, .1, .25, .5, 1, 2, 3, 5, 10, 30, 60, 300},
	}, []string{"medium"})
	r.MustRegister(late)
	for _, medium := range []string{"crl", "ocsp"} {
		late.WithLabelValues(medium) // there from the start
	}
	return &receipts{ledger: l, gathered: ocsp.NewReceipts(), within: within, wake: make(chan struct{}, 1), late: late, log: log}
}

// published measures a list that stands now. Whole lists come later, for those who can do no better, and are not counted.
func (r *receipts) published(p crl.Publication) {
	if p.Epoch == crl.Whole {
		return
	}
	for _, e := range p.Fresh {
		if !e.Asked.IsZero() {
			r.late.WithLabelValues("crl").Observe(p.At.Sub(e.Asked).Seconds())
		}
	}
}

// run writes down what clients were told, until ctx ends.
func (r *receipts) run(ctx context.Context) {
	for ctx.Err() == nil {
		if err := r.gathered.Run(ctx, r.write); err != nil && ctx.Err() == nil {
			r.log.Warn("ocsp receipts not recorded", "err", err)
		}
	}
}

func (r *receipts) write(ctx context.Context, list []ocsp.Receipt) error {
	late, err := r.ledger.Carried(ctx, list)
	for _, d := range late {
		r.late.WithLabelValues("ocsp").Observe(d.Seconds())
	}
	return err
}

// duty answers for what ended since the last run and nobody asked about yet.
func (r *receipts) duty() duty.Duty {
	return duty.Duty{Name: "receipts", Every: 5 * time.Second, Wake: r.wake, Once: func(ctx context.Context, term int64) error {
		if r.term != term {
			r.term, r.upto = term, ""
		}
		err := r.once(ctx)
		if err != nil {
			r.upto = ""
		}
		return err
	}}
}

func (r *receipts) once(ctx context.Context) error {
	within := r.within()
	if r.upto == "" {
		var err error
		if r.upto, err = r.begin(ctx, within); err != nil {
			return err
		}
	}
	var ended []cert.Serial
	upto, err := r.ledger.Since(ctx, within, r.upto, func(e crl.Ending) {
		if !e.Asked.IsZero() { // what was abandoned, nobody holds
			ended = append(ended, e.Serial)
		}
	})
	if errors.Is(err, crl.ErrForeign) {
		upto, err = r.ledger.Since(ctx, nil, "", nil)
	}
	for len(ended) > 0 && err == nil {
		n := min(receiptsAtOnce, len(ended))
		err, ended = r.answer(ctx, ended[:n]), ended[n:]
	}
	if err == nil {
		r.upto = upto
	}
	return err
}

// begin returns where a duty that knows nothing looks from: what the oldest list saw.
func (r *receipts) begin(ctx context.Context, within []crl.Reach) (crl.Snapshot, error) {
	ids := make([]int, len(within))
	for i, w := range within {
		ids[i] = w.Authority
	}
	standing, err := r.ledger.Standing(ctx, ids)
	if err != nil || len(standing) == 0 {
		return "", err
	}
	first := standing[0].Seen
	for _, s := range standing {
		first = crl.Earliest(first, s.Seen)
	}
	return first, nil
}

func (r *receipts) answer(ctx context.Context, ended []cert.Serial) error {
	left, err := r.ledger.Uncarried(ctx, ended)
	if err != nil || len(left) == 0 {
		return err
	}
	made, err := r.responder.Presign(ctx, left)
	return errors.Join(err, r.write(ctx, made))
}
