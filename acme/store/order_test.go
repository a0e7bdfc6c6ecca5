package store_test

import (
	"errors"
	"testing"
	"time"

	"codeberg.org/dataverket/segl/acme"
	"codeberg.org/dataverket/segl/internal/uid"
)

func TestNoAttemptIsRecordedByAStandingRecordForAllBelowAName(t *testing.T) {
	r := newRig(t)
	a := r.account(t)
	z := acme.Authorization{
		ID: uid.New(uid.Authorization, 1, r.Now()), Account: a.ID, Name: r.order(t, a, "dns:demo.test").Names[0], Subdomains: true,
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
