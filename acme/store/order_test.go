package store_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"codeberg.org/dataverket/segl/acme"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/pkitest"
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

// unissued returns what Unissued gives.
func (r *rig) unissued(t *testing.T, before time.Time, page int) (list []acme.Order, err error) {
	t.Helper()
	err = r.Unissued(t.Context(), before, page, func(o acme.Order) error {
		list = append(list, o)
		return nil
	})
	return list, err
}

// finalized claims orders, all at one time.
func (r *rig) finalized(t *testing.T, all ...acme.Order) time.Time {
	t.Helper()
	csr := pkitest.CSR(t, pkitest.Key(t), "dns:a.demo.test")
	f := acme.Finalization{At: r.Now().UTC().Truncate(time.Microsecond), Key: csr.Key, SPKI: csr.SPKI, KeyID: csr.KeyID}
	for _, o := range all {
		did, err := r.Finalize(t.Context(), o.ID, f)
		if err != nil || !did.Claimed {
			t.Fatalf("%+v, %v", did, err)
		}
	}
	return f.At.Add(time.Second)
}

func TestAnOrderThatCannotBeReadKeepsNoOther(t *testing.T) {
	r := newRig(t)
	a := r.account(t)
	bad := r.behind(t, a, 10*time.Minute) // no clock is so far ahead
	before := r.finalized(t, bad, r.order(t, a, "dns:b.demo.test"), r.order(t, a, "dns:c.demo.test"))
	for range 2 {
		list, err := r.unissued(t, before, 10)
		if len(list) != 2 || err == nil || !strings.Contains(err.Error(), bad.ID.String()) {
			t.Errorf("%d orders of 2 were given, %v", len(list), err)
		}
	}
}

func TestOrdersWithoutACertificateAreGivenPageByPage(t *testing.T) {
	r := newRig(t)
	a := r.account(t)
	var all []acme.Order
	for range 7 {
		all = append(all, r.order(t, a, "dns:a.demo.test"))
	}
	early := r.finalized(t, all[:5]...) // many at one time, over more than one page
	r.Advance(time.Second)
	before := r.finalized(t, all[5:]...)
	if list, err := r.unissued(t, early, 2); err != nil || len(list) != 5 {
		t.Errorf("%d orders of 5, %v", len(list), err)
	}
	for _, page := range []int{1, 2, 7, 8} {
		list, err := r.unissued(t, before, page)
		if err != nil || len(list) != 7 {
			t.Errorf("%d orders of 7 by pages of %d, %v", len(list), page, err)
		}
		seen := map[uid.UID]bool{}
		for _, o := range list {
			if seen[o.ID] {
				t.Errorf("order %s is given twice", o.ID)
			}
			seen[o.ID] = true
		}
	}
	stop := errors.New("enough")
	n := 0
	err := r.Unissued(t.Context(), before, 2, func(acme.Order) error { n++; return stop })
	if n != 1 || !errors.Is(err, stop) {
		t.Errorf("%d orders were given after an error, %v", n, err)
	}
}
