package store_test

import (
	"errors"
	"testing"
	"time"

	"codeberg.org/dataverket/segl/acme"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/uid"
)

func TestNoAttemptIsRecordedByAStandingRecordForAllBelowAName(t *testing.T) {
	r := newRig(t)
	a := r.account(t)
	z := acme.Authorization{
		ID: uid.New(uid.Authorization, 1, r.Now()), Account: a.ID, Name: name(t, "dns:demo.test"), Subdomains: true,
		Token: acme.Token{1}, Expires: r.Now().Add(time.Hour),
	}
	must(t, r.CreateAuthorization(t.Context(), z))
	attempt := func(m acme.Method) (bool, error) {
		_, ours, err := r.Attempt(t.Context(), acme.Ask{Account: a.ID, Authorization: z.ID, Method: m, At: r.Now(), Lease: time.Minute})
		return ours, err
	}
	if ours, err := attempt(acme.DNSPersist01); ours || !errors.Is(err, acme.ErrNotFound) {
		t.Errorf("by dns-persist-01: %v, %v", ours, err)
	}
	var n int
	must(t, r.DB.QueryRow(t.Context(), `SELECT count(*) FROM acme_attempt`).Scan(&n))
	if n != 0 {
		t.Errorf("%d attempts are recorded", n)
	}
	if ours, err := attempt(acme.DNS01); !ours || err != nil {
		t.Errorf("by dns-01: %v, %v", ours, err)
	}
}

// behind records an order whose authorization was made by a replica whose clock is so far ahead.
func (r *rig) behind(t *testing.T, a acme.Account, ahead time.Duration) acme.Order {
	t.Helper()
	now := r.Now().UTC().Truncate(time.Microsecond)
	o := acme.Order{ID: uid.New(uid.Order, 1, now), Account: a.ID, Scope: a.Scope, Profile: "server", Expires: now.Add(time.Hour)}
	o.Names = []cert.Name{name(t, "dns:a.demo.test")}
	o.Authorizations = []acme.Authorization{{
		ID: uid.New(uid.Authorization, 1, now.Add(ahead)), Account: a.ID, Name: o.Names[0], Token: acme.Token{1}, Expires: now.Add(time.Hour),
	}}
	must(t, r.CreateOrder(t.Context(), o))
	return o
}

func name(t *testing.T, s string) cert.Name {
	t.Helper()
	n, err := cert.ParseName(s)
	must(t, err)
	return n
}

func TestAnOrderIsReadWhoseAuthorizationAnotherReplicaMade(t *testing.T) {
	r := newRig(t)
	a := r.account(t)
	for _, ahead := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Minute} {
		o := r.behind(t, a, ahead)
		if got, err := r.Order(t.Context(), o.ID); err != nil || len(got.Authorizations) != 1 || got.Authorizations[0].ID != o.Authorizations[0].ID {
			t.Errorf("with a clock %s ahead: %+v, %v", ahead, got, err)
		}
	}
	if list, err := r.Orders(t.Context(), a.ID, uid.UID{}, 10); err != nil || len(list) != 3 {
		t.Errorf("a list of %d, %v", len(list), err)
	}
}
