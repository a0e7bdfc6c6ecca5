package ca_test

import (
	"fmt"
	"testing"
	"time"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/pkitest"
)

func TestADoorstepIsSoonFull(t *testing.T) {
	var d ca.Doorstep
	now := time.Date(2026, 5, 4, 6, 0, 0, 0, time.UTC)
	if d.Tell("", now) {
		t.Error("nobody in particular is written down")
	}
	told := func(actors int) (n int) {
		for i := range actors {
			for range 100 {
				if d.Tell(fmt.Sprint(i), now) {
					n++
				}
			}
		}
		return n
	}
	if n := told(1); n != 10 {
		t.Errorf("one caller is written down %d times", n)
	}
	if n := told(1000); n != 590 {
		t.Errorf("a thousand callers are written down %d times more", n)
	}
	now = now.Add(time.Minute)
	if n := told(1); n != 10 {
		t.Errorf("a minute later one caller is written down %d times", n)
	}
	now = now.Add(-time.Hour)
	if n := told(1); n != 10 {
		t.Errorf("after the clock went back one caller is written down %d times", n)
	}
}

func TestWhoIsTurnedAwayAtTheDoorIsAFactAndNoFlood(t *testing.T) {
	h := pkitest.New(t)
	who := enrolled(t, h)
	standing := ca.NewStanding(h.Ledger, h.Now)
	must(t, standing.Admit(t.Context(), who))
	_, err := h.Revoke(t.Context(), who, who.Serial, cert.Superseded)
	must(t, err)
	standing.Drop(who.Serial)
	was := count(t, h)
	for range 50 {
		refusal(t, "a revoked caller", standing.Admit(t.Context(), who))
	}
	if got := count(t, h).since(was); got != (tally{refused: 10}) {
		t.Errorf("fifty knocks left %+v, want ten refusals", got)
	}
	was = count(t, h)
	for _, f := range []audit.Fact{
		{Who: demo, Scope: pkitest.Demo, What: audit.Issue, Subject: "a request that cannot be read"},
		{Who: identity.Caller{}, What: audit.Issue, Subject: "of nobody"},
	} {
		must(t, h.TurnedAway(t.Context(), f, "test"))
	}
	if got := count(t, h).since(was); got != (tally{refused: 1}) {
		t.Errorf("left %+v, want one refusal", got)
	}
}
