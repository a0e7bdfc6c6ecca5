package api_test

import (
	"net/http"
	"testing"
	"time"

	"codeberg.org/dataverket/segl/acme"
)

func TestAnOrderRenewsItselfOnlyWhileItsOwnerPermits(t *testing.T) {
	w := &outside{}
	s, r := worldly(t, w)
	a := r.register(t)
	res := a.post(t, r.at("new-order"), renewing(s, func(auto, _ map[string]any) {
		auto["end-date"] = s.Now().Add(40 * time.Hour).UTC().Format(time.RFC3339)
	}))
	url, o := res.header.Get("Location"), res.json(t)
	a.prove(t, o, "http-01")
	a.wait(t, url)
	if res, _ := a.finalize(t, o, "dns:a.demo.test"); res.status != http.StatusOK {
		t.Fatalf("finalize: %d %s", res.status, res.body)
	}
	star := func() acme.Star {
		t.Helper()
		st, err := r.store.Star(t.Context(), uidOf(t, url))
		must(t, err)
		return st
	}
	s.Advance(9 * time.Hour)
	w.forbid(acme.NewProblem(acme.DNS, "no answer"))
	if err := r.server.RenewStars(t.Context()); err == nil {
		t.Error("a term was issued that nobody was asked about")
	}
	if st := star(); st.Problem != nil || st.Next.IsZero() {
		t.Fatalf("%+v: what could not be found out ended it", st)
	}
	w.forbid(nil)
	s.Advance(2 * time.Minute) // others come first for a while
	must(t, r.server.RenewStars(t.Context()))
	if st := star(); st.Term < 2 || st.Problem != nil {
		t.Fatalf("%+v: permitted, and not renewed", st)
	}
	s.Advance(3 * time.Hour)
	w.forbid(acme.NewProblem(acme.CAA, "forbidden since"))
	must(t, r.server.RenewStars(t.Context()))
	if st := star(); st.Problem == nil || !st.Next.IsZero() {
		t.Errorf("%+v: renews against its owner's will", st)
	}
}

func TestNamesApprovedWithoutProofNeedPermissionAllTheSame(t *testing.T) {
	w := &outside{forbidden: acme.NewProblem(acme.CAA, "forbidden by its owner")}
	_, r := worldly(t, w)
	key, secret := r.key(t, acme.Binding{Approved: []string{"dns:a.demo.test"}})
	a := r.member(t, key.ID, secret)
	_, o := a.order(t, "dns:a.demo.test")
	if o["status"] != "ready" {
		t.Fatalf("order %v", o)
	}
	if got, _ := a.finalize(t, o, "dns:a.demo.test"); got.status != http.StatusForbidden || w.asked() != 1 {
		t.Errorf("finalize: %d %s, asked %d times", got.status, got.body, w.asked())
	}
}
