package acme_test

import (
	"encoding/json"
	"testing"
	"time"

	"codeberg.org/dataverket/segl/acme"
	"codeberg.org/dataverket/segl/internal/cert"
)

var (
	now   = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	later = now.Add(time.Hour)
)

func name(t testing.TB, s string) cert.Name {
	t.Helper()
	n, err := cert.ParseName(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func claim(t testing.TB, v *acme.Validation) acme.Authorization {
	return acme.Authorization{Name: name(t, "dns:a.test"), Expires: later, Validation: v}
}

func TestStatusesFollowFromFacts(t *testing.T) {
	proved := &acme.Validation{Method: acme.HTTP01, At: now}
	failed := &acme.Validation{Method: acme.HTTP01, At: now, Problem: acme.NewProblem(acme.Connection, "x")}
	expired := claim(t, proved)
	expired.Expires = now
	order := func(all ...acme.Authorization) acme.Order { return acme.Order{Expires: later, Authorizations: all} }
	with := func(o acme.Order, f func(*acme.Order)) acme.Order { f(&o); return o }
	for what, c := range map[string]struct {
		o    acme.Order
		want acme.Status
	}{
		"nothing proved":          {order(claim(t, nil)), acme.Pending},
		"one of two proved":       {order(claim(t, proved), claim(t, nil)), acme.Pending},
		"all proved":              {order(claim(t, proved), claim(t, proved)), acme.Ready},
		"one failed":              {order(claim(t, proved), claim(t, failed)), acme.Invalid},
		"one failed, one to come": {order(claim(t, nil), claim(t, failed)), acme.Invalid},
		"a proof has expired":     {order(expired), acme.Invalid},
		"expired":                 {with(order(claim(t, proved)), func(o *acme.Order) { o.Expires = now }), acme.Invalid},
		"finalized":               {with(order(claim(t, proved)), func(o *acme.Order) { o.Finalization = &acme.Finalization{} }), acme.Processing},
		"finalized, then expired": {with(order(expired), func(o *acme.Order) { o.Finalization, o.Expires = &acme.Finalization{}, now }), acme.Processing},
		"refused after all":       {with(order(claim(t, proved)), func(o *acme.Order) { o.Finalization, o.Failure = &acme.Finalization{}, failed.Problem }), acme.Invalid},
		"issued":                  {with(order(claim(t, proved)), func(o *acme.Order) { o.Certificate = cert.NewSerial(1, now) }), acme.Valid},
		"issued, long ago":        {with(order(expired), func(o *acme.Order) { o.Certificate, o.Expires = cert.NewSerial(1, now), now }), acme.Valid},
	} {
		if got := c.o.Status(now); got != c.want {
			t.Errorf("%s: %s, want %s", what, got, c.want)
		}
	}
	for want, a := range map[acme.Status]acme.Authorization{
		acme.Pending: claim(t, nil), acme.Valid: claim(t, proved), acme.Invalid: claim(t, failed), acme.Expired: expired,
	} {
		if got := a.Status(now); got != want {
			t.Errorf("authorization is %s, want %s", got, want)
		}
	}
}

func TestOnlyTheZoneProvesAWildcardAndNothingInItAnAddress(t *testing.T) {
	for who, want := range map[string][]acme.Method{
		"dns:a.test":   {acme.HTTP01, acme.DNS01, acme.TLSALPN01, acme.DNSAccount01, acme.DNSPersist01},
		"dns:*.a.test": {acme.DNS01, acme.DNSAccount01, acme.DNSPersist01},
		"ip:192.0.2.1": {acme.HTTP01, acme.TLSALPN01}, "ip:2001:db8::1": {acme.HTTP01, acme.TLSALPN01}, "uri:spiffe://a/b": nil,
	} {
		got := acme.MethodsFor(name(t, who))
		if len(got) != len(want) {
			t.Errorf("%s: %v", who, got)
			continue
		}
		for i := range want {
			if got[i] != want[i] {
				t.Errorf("%s: %v, want %v", who, got, want)
			}
		}
	}
}

func TestChallengesShowWhatDecided(t *testing.T) {
	a := claim(t, nil)
	a.Attempt = &acme.Attempt{Method: acme.DNS01, Asked: now}
	if c, _ := a.Challenge(acme.DNS01); c.Status != acme.Processing {
		t.Errorf("an attempted challenge is %s", c.Status)
	}
	if c, _ := a.Challenge(acme.HTTP01); c.Status != acme.Pending || len(a.Challenges()) != 5 {
		t.Errorf("another is %s of %d", c.Status, len(a.Challenges()))
	}
	a = claim(t, &acme.Validation{Method: acme.DNS01, At: now})
	if all := a.Challenges(); len(all) != 1 || all[0].Method != acme.DNS01 || all[0].Status != acme.Valid || !all[0].Validated.Equal(now) {
		t.Errorf("a proved authorization shows %+v", all) // RFC 8555 §7.1.4
	}
}

func TestProblemsSurviveStorage(t *testing.T) {
	id := acme.Identifier{Type: "dns", Value: "a.test"}
	p := acme.NewProblem(acme.Compound, "two")
	p.Subproblems = []*acme.Problem{{Type: acme.DNS, Detail: "no", Identifier: &id}, {Type: acme.CAA, Detail: "no"}}
	raw, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	var got acme.Problem
	if err := json.Unmarshal(raw, &got); err != nil {
		t.Fatal(err)
	}
	if got.Type != p.Type || got.Detail != p.Detail || got.HTTPStatus() != 400 || len(got.Subproblems) != 2 || *got.Subproblems[0].Identifier != id {
		t.Errorf("read %+v from %s", got, raw)
	}
	if err := json.Unmarshal([]byte(`{"type":"about:blank"}`), &got); err == nil {
		t.Error("a foreign type was read")
	}
}

func TestNewRefusesAServerWithoutParts(t *testing.T) {
	if _, err := acme.New(acme.Config{Site: 1}); err == nil {
		t.Error("made a server of nothing")
	}
}
