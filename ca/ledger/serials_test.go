package ledger_test

import (
	"slices"
	"testing"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/pkitest"
)

func TestSerialsTellsWhatBecameOfEveryIntent(t *testing.T) {
	h := pkitest.New(t)
	ctx := t.Context()
	issue := func() cert.Serial {
		c, err := h.Issue(ctx, pkitest.Workload(pkitest.Demo, "demo"), ca.Request{
			Scope: pkitest.Demo, Profile: "server", CSR: pkitest.CSR(t, pkitest.Key(t), "dns:a.demo.test"),
		})
		if err != nil {
			t.Fatal(err)
		}
		return c.Serial
	}
	intend := func() cert.Serial {
		s := cert.NewSerial(1, h.Now())
		servers, err := h.Authority("servers-1-1")
		if err != nil {
			t.Fatal(err)
		}
		if err := h.Ledger.Intend(ctx, ca.Intent{
			Serial: s, Authority: servers.ID, Scope: pkitest.Demo, Profile: "server", NotAfter: h.Now().Add(ca.MinLife), TBS: []byte("never signed"),
		}); err != nil {
			t.Fatal(err)
		}
		return s
	}
	want := map[cert.Serial]string{issue(): "issued"}
	gone, also, revoked := intend(), intend(), issue()
	if _, err := h.Revoke(ctx, identity.System("test"), revoked, cert.Superseded); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Ledger.Abandon(ctx, h.Now().Add(2*ca.DefaultAbandonAfter), audit.Fact{At: h.Now(), Who: identity.System("test"), What: audit.Abandon}); err != nil {
		t.Fatal(err)
	}
	want[gone], want[also], want[revoked] = "abandoned", "abandoned", "revoked"
	want[intend()] = "open"

	var all []ca.Known
	for after := (cert.Serial{}); ; {
		page, err := h.Ledger.Serials(ctx, after, 2)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			break
		}
		all, after = append(all, page...), page[len(page)-1].Serial
	}
	if !slices.IsSortedFunc(all, func(a, b ca.Known) int { return slices.Compare(a.Serial.Bytes(), b.Serial.Bytes()) }) {
		t.Error("they are out of order")
	}
	seen := map[cert.Serial]string{}
	for _, k := range all {
		if seen[k.Serial] != "" {
			t.Errorf("%s is there twice", k.Serial)
		}
		seen[k.Serial] = k.State
	}
	for s, state := range want {
		if seen[s] != state {
			t.Errorf("%s is %q, want %s", s, seen[s], state)
		}
	}
	if authorities := len(h.Authorities()) - 1; len(all) != len(want)+authorities { // a root has no intent
		t.Errorf("%d serials, want %d and the %d authorities'", len(all), len(want), authorities)
	}
}
