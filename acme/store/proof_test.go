package store_test

import (
	"testing"
	"time"

	"codeberg.org/dataverket/segl/acme"
	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/pkitest"
	"codeberg.org/dataverket/segl/internal/uid"
)

// valid makes a valid authorization for a name, good for a week from now.
func (r *rig) valid(t *testing.T, a acme.Account, n cert.Name) acme.Authorization {
	t.Helper()
	now := r.Now().UTC().Truncate(time.Microsecond)
	z := acme.Authorization{ID: uid.New(uid.Authorization, 1, now), Account: a.ID, Name: n, Token: acme.Token{1}, Expires: now.Add(uid.EpochLength)}
	must(t, r.CreateAuthorization(t.Context(), z))
	did, err := r.Settle(t.Context(), z.ID, false, acme.Validation{Method: acme.HTTP01, At: now, Evidence: "127.0.0.1:80"})
	if err != nil || !did {
		t.Fatalf("%v, %v", did, err)
	}
	return z
}

// The weeks are named: a statement on all of them would lock and prepare each that is kept.
func TestALookForAuthorizationsAsksTheWeeksThatHaveOne(t *testing.T) {
	r := newRig(t)
	a, n := r.account(t), name(t, "dns:a.demo.test")
	wanted := []acme.Wanted{{Account: a.ID, Name: n, Site: 1, Until: r.Now()}, {Account: a.ID, Name: name(t, "dns:b.demo.test"), Site: 1, Until: r.Now()}}
	first := r.valid(t, a, n)
	found, err := r.Proofs(t.Context(), wanted)
	must(t, err)
	if len(found) != 1 || found[0].ID != first.ID {
		t.Fatalf("found %+v", found)
	}
	older := uid.Floor(uid.Authorization, 1, r.Now().Add(-8*24*time.Hour))
	if !r.LookedFor("acme_authorization", older) || r.LookedFor("acme_authorization", uid.Floor(uid.Authorization, 1, r.Now().Add(-3*uid.EpochLength))) {
		t.Error("it did not ask for the weeks that may have one, or for others")
	}
	r.Advance(uid.EpochLength - time.Hour) // the next week: the first is still good
	_, err = r.Ledger.MakeEpochs(t.Context(), r.Now())
	must(t, err)
	for i := range wanted {
		wanted[i].Until = r.Now()
	}
	found, err = r.Proofs(t.Context(), wanted)
	must(t, err)
	if len(found) != 1 || found[0].ID != first.ID {
		t.Errorf("a week later: found %+v, want the first", found)
	}
	second := r.valid(t, a, n)
	found, err = r.Proofs(t.Context(), wanted)
	must(t, err)
	if len(found) != 1 || found[0].ID != second.ID {
		t.Errorf("of two: found %+v, want the one that lasts longer", found)
	}
	must(t, r.Deactivate(t.Context(), acme.Authorization{ID: second.ID, Deactivated: r.Now()}, audit.Fact{At: r.Now(), Who: identity.System("test"), Scope: pkitest.Demo, What: audit.AccountCreated}))
	found, err = r.Proofs(t.Context(), wanted)
	must(t, err)
	if len(found) != 1 || found[0].ID != first.ID {
		t.Errorf("the second was given up: found %+v", found)
	}
}
