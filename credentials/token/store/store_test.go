package store_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/credentials/token"
	"codeberg.org/dataverket/segl/credentials/token/store"
	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/pkitest"
	"codeberg.org/dataverket/segl/kms"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func fact(h *pkitest.House, what, subject string) audit.Fact {
	return audit.Fact{At: h.Now(), Who: identity.System("test"), Scope: identity.Platform, What: what, Subject: subject}
}

func facts(t *testing.T, h *pkitest.House, what string) (n int) {
	t.Helper()
	must(t, h.DB.QueryRow(t.Context(), `SELECT count(*) FROM fact WHERE what = $1`, what).Scan(&n))
	return n
}

func TestAKeyIsKeptWithItsFact(t *testing.T) {
	h := pkitest.New(t)
	s := store.New(h.DB)
	key, err := h.Keyring.Create(t.Context(), "token-es256-test", kms.P256)
	must(t, err)
	row := token.KeyRow{ID: "kid", Algorithm: token.ES256, Name: key.Name(), MadeAt: h.Now().UTC(), SignsFrom: h.Now().Add(time.Hour).UTC()}
	must(t, s.AddKey(t.Context(), row, fact(h, audit.TokenKeyMade, row.ID)))
	got, err := s.Keys(t.Context())
	if err != nil || len(got) != 1 || got[0].ID != row.ID || !got[0].SignsFrom.Equal(row.SignsFrom.Truncate(time.Microsecond)) || !got[0].RevokedAt.IsZero() {
		t.Errorf("%+v, %v", got, err)
	}
	if facts(t, h, audit.TokenKeyMade) != 1 {
		t.Error("its fact is missing")
	}
	before := row
	before.ID, before.Name, before.SignsFrom = "other", "none", row.MadeAt.Add(-time.Hour)
	if err := s.AddKey(t.Context(), before, fact(h, audit.TokenKeyMade, "other")); err == nil || facts(t, h, audit.TokenKeyMade) != 1 {
		t.Errorf("a key that is not there, and signs before it is published: %v", err)
	}
	if err := s.RevokeKey(t.Context(), "nobody", fact(h, audit.TokenKeyRevoked, "nobody")); !errors.Is(err, token.ErrNotFound) || facts(t, h, audit.TokenKeyRevoked) != 0 {
		t.Errorf("a key that is not there: %v", err)
	}
	must(t, s.RevokeKey(t.Context(), row.ID, fact(h, audit.TokenKeyRevoked, row.ID)))
	if got, err := s.Keys(t.Context()); err != nil || got[0].RevokedAt.IsZero() {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestAMarkIsSpentOnce(t *testing.T) {
	h := pkitest.New(t)
	s := store.New(h.DB)
	var wg sync.WaitGroup
	got := make([]bool, 16)
	for i := range got {
		wg.Go(func() {
			first, err := s.Spend(t.Context(), "proof", h.Now().Add(time.Minute))
			if err != nil {
				t.Error(err)
			}
			got[i] = first
		})
	}
	wg.Wait()
	n := 0
	for _, first := range got {
		if first {
			n++
		}
	}
	if n != 1 {
		t.Errorf("%d were the first", n)
	}
	must(t, s.Sweep(t.Context(), h.Now().Add(5*time.Minute)))
	if first, err := s.Spend(t.Context(), "proof", h.Now()); err != nil || first {
		t.Errorf("swept while it might be shown again: %v", err)
	}
	must(t, s.Sweep(t.Context(), h.Now().Add(10*time.Minute)))
	if first, err := s.Spend(t.Context(), "proof", h.Now()); err != nil || !first {
		t.Errorf("never swept: %v", err)
	}
}

func TestEndsAreReadInPagesAndNoneTwice(t *testing.T) {
	h := pkitest.New(t)
	s := store.New(h.DB)
	demo := pkitest.Workload(pkitest.Demo, "web")
	c, err := h.Issue(t.Context(), demo, ca.Request{Scope: pkitest.Demo, Profile: "workload", CSR: pkitest.CSR(t, pkitest.Key(t)), Identity: demo.ID, Life: time.Hour})
	must(t, err)
	_, err = h.Revoke(t.Context(), demo, c.Serial, cert.KeyCompromise)
	must(t, err)
	for i := range 3 {
		must(t, s.Revoke(t.Context(), fact(h, audit.TokenRevoked, fmt.Sprint("jti-", i))))
	}
	seen := map[string]int{}
	var at audit.Position
	for {
		page, err := s.Ended(t.Context(), at, h.Now().Add(-time.Hour))
		must(t, err)
		for _, e := range page.List {
			seen[e.Kind+":"+e.Value]++
		}
		if at == page.Next {
			break
		}
		at = page.Next
	}
	if len(seen) != 4 || seen["crt:"+c.Serial.String()] != 1 || seen["jti:jti-2"] != 1 {
		t.Errorf("%v", seen)
	}
	page, err := s.Ended(t.Context(), audit.Position{}, h.Now().Add(time.Hour))
	if err != nil || len(page.List) != 0 || !page.Floor.IsZero() {
		t.Errorf("what is too old is read: %+v, %v", page, err)
	}
}
