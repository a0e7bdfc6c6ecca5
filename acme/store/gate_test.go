package store_test

import (
	"testing"

	"codeberg.org/dataverket/segl/acme/store"
	"codeberg.org/dataverket/segl/internal/uid"
)

func TestAMadeUpAuthorizationCostsNoTripBeforeItsNonceIsSpent(t *testing.T) {
	r := newRig(t)
	a := r.account(t)
	const parent = "acme_authorization"
	spent := r.nonce(t)
	r.admit(t, r.Store, spent)
	for site := byte(2); site < 10; site++ { // of sites that are none
		made := uid.New(uid.Authorization, site, r.Now())
		st, err := r.Admit(t.Context(), spent, a.ID, made)
		if err != nil || st.Fresh || r.LookedFor(parent, made) {
			t.Errorf("a replay: %+v, %v, looked for it: %v", st, err, r.LookedFor(parent, made))
		}
	}
	made := uid.New(uid.Authorization, 9, r.Now())
	if st, err := r.Admit(t.Context(), r.nonce(t), a.ID, made); err != nil || !st.Fresh || !st.Known || st.Claim != nil || !r.LookedFor(parent, made) {
		t.Errorf("with a fresh nonce: %+v, %v, is what is missing remembered: %v", st, err, r.LookedFor(parent, made))
	}
	// A replica that has not met the week yet learns of it, and reads what is there from then on.
	z := r.order(t, a, "dns:a.demo.test").Authorizations[0]
	other := store.New(r.DB, r.Now)
	t.Cleanup(other.Close)
	for i, want := range []bool{false, true} {
		st, err := other.Admit(t.Context(), r.nonce(t), a.ID, z.ID)
		if err != nil || !st.Fresh || (st.Claim != nil) != want {
			t.Errorf("request %d of a new replica: %+v, %v", i+1, st, err)
		}
	}
}
