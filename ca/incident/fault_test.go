package incident_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/ca/incident"
	"codeberg.org/dataverket/segl/ca/ledger"
	"codeberg.org/dataverket/segl/ca/ocsp"
	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/uid"
)

// errLost is what is seen of a write whose request or reply was lost.
var errLost = errors.New("connection lost, outcome unknown")

// holding loses completions and keeps the last.
type holding struct {
	ca.Ledger
	held ca.Completion
}

func (h *holding) Complete(_ context.Context, c ca.Completion) error {
	h.held = c
	return errLost
}

// lossy loses the next write of one kind: before it lands, or after.
type lossy struct {
	*ledger.Ledger
	op    string
	after bool
}

func (l *lossy) write(op string, do func() error) error {
	if l.op != op {
		return do()
	}
	l.op = ""
	if l.after {
		return errors.Join(do(), errLost)
	}
	return errLost
}

func (l *lossy) Record(ctx context.Context, i incident.Incident, f audit.Fact) error {
	return l.write("record", func() error { return l.Ledger.Record(ctx, i, f) })
}

func (l *lossy) Begin(ctx context.Context, id uid.UID, f audit.Fact) error {
	return l.write("begin", func() error { return l.Ledger.Begin(ctx, id, f) })
}

func (l *lossy) Step(ctx context.Context, id uid.UID, now time.Time) (more bool, err error) {
	err = l.write("step", func() error {
		more, err = l.Ledger.Step(ctx, id, now)
		return err
	})
	return more, err
}

func TestATaskGoesOnFromWhereItWasLost(t *testing.T) {
	o := open(t)
	for _, c := range []struct {
		name  string
		op    string
		after bool
	}{
		{"record lost", "record", false},
		{"record landed, reply lost", "record", true},
		{"begin lost", "begin", false},
		{"begin landed, reply lost", "begin", true},
		{"step lost", "step", false},
		{"step landed, reply lost", "step", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			made := o.issue("a.demo.test")
			o.Advance(time.Second)
			l := &lossy{o.Ledger, c.op, c.after}
			d := desk(o.House, l)
			ask := incident.Ask{
				ID: incident.Origin(1, operator, c.name), Choice: incident.Choice{Key: made.Key}, Why: c.name, Deadline: o.Now().Add(time.Minute), Reason: cert.Superseded,
			}
			_, err := d.Create(t.Context(), operator, ask)
			if lost := errors.Is(err, errLost); lost != (c.op == "record") {
				t.Fatal(err)
			}
			if c.op == "record" {
				if _, err := d.Create(t.Context(), operator, ask); err != nil {
					t.Fatal(err)
				}
			}
			was := facts(t, o, "certificate.revoke")
			o.Advance(time.Minute + time.Second)
			if err := d.RunOnce(t.Context()); errors.Is(err, errLost) == (c.op == "record") {
				t.Fatal(err)
			}
			o.run() // another replica, or the same after its start
			if o.status(made) != ocsp.Revoked || facts(t, o, "certificate.revoke")-was != 1 {
				t.Errorf("it is %d, with %d facts", o.status(made), facts(t, o, "certificate.revoke")-was)
			}
			o.Advance(2 * time.Minute)
			o.run()
			i, err := o.Ledger.Incident(t.Context(), ask.ID)
			if err != nil || i.Finished.IsZero() || i.Revoked != 1 {
				t.Errorf("%+v, %v", i, err)
			}
		})
	}
	if n := facts(t, o, "incident.create"); n != 6 {
		t.Errorf("%d facts of six incidents", n)
	}
	if n := facts(t, o, "incident.revoke"); n != 6 {
		t.Errorf("%d facts of six beginnings", n)
	}
}
