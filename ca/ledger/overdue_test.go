package ledger_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/pkitest"
	"codeberg.org/dataverket/segl/internal/uid"
)

// ask issues as who, for an hour.
func ask(t *testing.T, h *pkitest.House, who identity.Caller, profile string, names ...string) ca.Certificate {
	t.Helper()
	req := ca.Request{Scope: pkitest.Demo, Profile: profile, CSR: pkitest.CSR(t, pkitest.Key(t), names...), Life: time.Hour}
	if profile != "server" {
		req.Identity = who.ID
	}
	c, err := h.Issue(t.Context(), who, req)
	must(t, err)
	return c
}

// fromOrder issues as an ACME order does.
func fromOrder(t *testing.T, h *pkitest.House, name string) ca.Certificate {
	t.Helper()
	c, err := h.Issue(t.Context(), demo, ca.Request{
		Scope: pkitest.Demo, Profile: "server", CSR: pkitest.CSR(t, pkitest.Key(t), name), Life: time.Hour,
		Origin: ca.Origin{ID: uid.New(uid.Order, 1, h.Now())},
	})
	must(t, err)
	return c
}

func TestAnOverdueCertificateIsOneThatShouldHaveASuccessorAndHasNone(t *testing.T) {
	h := pkitest.New(t)
	alone := ask(t, h, demo, "server", "dns:alone.demo.test")
	ask(t, h, demo, "server", "dns:revoked.demo.test")
	revoked := ask(t, h, demo, "server", "dns:ended.demo.test")
	renewed := ask(t, h, demo, "workload")
	replaced := ask(t, h, demo, "server", "dns:replaced.demo.test")
	ordered, forgotten := fromOrder(t, h, "dns:ordered.demo.test"), fromOrder(t, h, "dns:forgotten.demo.test")
	twin := ask(t, h, demo, "server", "dns:twin.demo.test")
	must(t, errOf(h.Revoke(t.Context(), demo, revoked.Serial, cert.Superseded)))

	h.Advance(30 * time.Minute) // successors come; those are not due themselves
	must(t, errOf(h.Renew(t.Context(), identity.Caller{Actor: demo.Actor, ID: demo.ID, Scope: demo.Scope, Serial: renewed.Serial}, pkitest.CSR(t, pkitest.Key(t)))))
	_, err := h.Issue(t.Context(), demo, ca.Request{
		Scope: pkitest.Demo, Profile: "server", CSR: pkitest.CSR(t, pkitest.Key(t), "dns:replaced.demo.test"), Life: time.Hour, Replaces: replaced.Serial,
	})
	must(t, err)
	fromOrder(t, h, "dns:ordered.demo.test")
	ask(t, h, demo, "server", "dns:twin.demo.test") // two servers of one name, one of which forgot to renew

	overdue := func() (names []string) {
		t.Helper()
		for q := (ca.Query{Scope: pkitest.Demo, Profile: "server", Overdue: h.Now(), Limit: 2}); ; {
			p, err := h.Ledger.Select(t.Context(), q)
			must(t, err)
			for _, r := range p.Records {
				c, err := h.Certificate(t.Context(), r.Serial)
				must(t, err)
				names = append(names, c.Names[0].Value())
			}
			if !p.More {
				slices.Sort(names)
				return names
			}
			q.After = p.Next
		}
	}
	if got := overdue(); len(got) != 0 {
		t.Errorf("at half of their lives: %v", got)
	}
	h.Advance(20 * time.Minute)
	want := []string{"alone.demo.test", "forgotten.demo.test", "revoked.demo.test", "twin.demo.test"}
	if got := overdue(); !slices.Equal(got, want) {
		t.Errorf("near their ends: %v, want %v", got, want)
	}
	h.Advance(15 * time.Minute)
	if got := overdue(); len(got) != 0 {
		t.Errorf("when they have ended: %v", got)
	}
	_, _, _, _ = alone, ordered, forgotten, twin
}

func errOf(_ ca.Certificate, err error) error { return err }

func TestListsAreNarrowedByProfileAuthorityAndRequester(t *testing.T) {
	h := pkitest.New(t)
	other := pkitest.Workload(pkitest.Scope("demo"), "other")
	var servers, workloads, others []cert.Serial
	for i := range 3 {
		servers = append(servers, ask(t, h, demo, "server", fmt.Sprintf("dns:s%d.demo.test", i)).Serial)
		workloads = append(workloads, ask(t, h, demo, "workload").Serial)
		others = append(others, ask(t, h, other, "server", fmt.Sprintf("dns:o%d.demo.test", i)).Serial)
	}
	_, err := h.Issue(t.Context(), other, ca.Request{Scope: pkitest.Demo, Profile: "server", CSR: pkitest.CSR(t, pkitest.Key(t), "dns:evil.test")})
	if err == nil {
		t.Fatal("issued")
	}
	signs, err := h.AuthorityNamed("workloads-1-1")
	must(t, err)
	for name, c := range map[string]struct {
		q    ca.Query
		want []cert.Serial
	}{
		"a profile":                     {ca.Query{Profile: "server"}, slices.Concat(servers, others)},
		"a profile in a scope":          {ca.Query{Profile: "workload", Scope: pkitest.Demo}, workloads},
		"a profile in another":          {ca.Query{Profile: "workload", Scope: pkitest.Scope("other")}, nil},
		"an authority":                  {ca.Query{Authority: signs}, workloads},
		"an authority and a profile":    {ca.Query{Authority: signs, Profile: "server"}, nil},
		"a requester":                   {ca.Query{Requester: other.Actor}, others},
		"a requester and its profile":   {ca.Query{Requester: demo.Actor, Profile: "workload"}, workloads},
		"a requester elsewhere":         {ca.Query{Requester: other.Actor, Scope: pkitest.Scope("other")}, nil},
		"nobody":                        {ca.Query{Requester: "nobody"}, nil},
		"a name and a profile":          {ca.Query{Name: named(t, "dns:s1.demo.test"), Profile: "server"}, servers[1:2]},
		"a name and another profile":    {ca.Query{Name: named(t, "dns:s1.demo.test"), Profile: "workload"}, nil},
		"a name and who asked for it":   {ca.Query{Name: named(t, "dns:s1.demo.test"), Requester: demo.Actor}, servers[1:2]},
		"a name and who didn't":         {ca.Query{Name: named(t, "dns:s1.demo.test"), Requester: other.Actor}, nil},
		"revoked where nothing is":      {ca.Query{Revoked: true, Profile: "server"}, nil},
		"expiring before it was issued": {ca.Query{Requester: other.Actor, ExpiringBefore: h.Now()}, nil},
	} {
		if got := sorted(chosen(t, h, c.q)); !slices.Equal(got, sorted(c.want)) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

func sorted(list []cert.Serial) []cert.Serial {
	out := slices.Clone(list)
	slices.SortFunc(out, func(a, b cert.Serial) int { return slices.Compare(a.Bytes(), b.Bytes()) })
	return out
}
