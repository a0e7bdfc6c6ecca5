package store_test

import (
	"testing"
	"time"

	"codeberg.org/dataverket/segl/acme"
	"codeberg.org/dataverket/segl/internal/pkitest"
	"codeberg.org/dataverket/segl/internal/uid"
)

func TestScopesTakeTurnsAtRenewing(t *testing.T) {
	r := newRig(t)
	start := r.Now().UTC().Truncate(time.Second)
	many, few := r.account(t), r.accountOf(t, pkitest.Scope("demo/shop"))
	begin := func(a acme.Account, due time.Duration) {
		t.Helper()
		_, err := r.BeginStar(t.Context(), acme.Star{
			Order: uid.New(uid.Order, 1, start), Account: a.ID, Profile: "server", SPKI: []byte{1}, Term: 1, Next: start.Add(due),
			AutoRenewal: acme.AutoRenewal{Start: start, End: start.Add(24 * time.Hour), Lifetime: 7200},
		})
		must(t, err)
	}
	for i := range 5 {
		begin(many, time.Duration(i)*time.Minute)
	}
	begin(few, 10*time.Minute)
	begin(few, 2*time.Hour)
	due, err := r.DueStars(t.Context(), start.Add(time.Hour), 3)
	must(t, err)
	var whose []bool
	for _, st := range due {
		whose = append(whose, st.Account == many.ID)
	}
	if len(due) != 3 || !whose[0] || whose[1] || !whose[2] || !due[0].Next.Equal(start) || !due[2].Next.Equal(start.Add(time.Minute)) {
		t.Errorf("due: %+v", due)
	}
	if all, err := r.DueStars(t.Context(), start.Add(time.Hour), 100); err != nil || len(all) != 6 {
		t.Errorf("%d are due, %v", len(all), err)
	}
}
