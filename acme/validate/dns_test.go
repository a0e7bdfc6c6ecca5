package validate_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"codeberg.org/dataverket/segl/acme"
	"codeberg.org/dataverket/segl/acme/validate"
	"codeberg.org/dataverket/segl/acme/validate/dnstest"
)

func record(t *testing.T) string { return check(t, acme.DNS01, "dns:a.test").Record() }

func TestDNS01AcceptsTheDigest(t *testing.T) {
	for what, c := range map[string]struct {
		who     string
		records []string
	}{
		"alone":            {"dns:a.test", []string{"_acme-challenge.a.test. 0 IN TXT %s"}},
		"wildcard":         {"dns:*.a.test", []string{"_acme-challenge.a.test. 0 IN TXT %s"}},
		"among others":     {"dns:a.test", []string{"_acme-challenge.a.test. 0 IN TXT other", "_acme-challenge.a.test. 0 IN TXT %s"}},
		"through CNAMEs":   {"dns:a.test", []string{"_acme-challenge.a.test. 0 IN CNAME b.test.", "b.test. 0 IN CNAME c.test.", "c.test. 0 IN TXT %s"}},
		"in upper case":    {"dns:a.test", []string{"_ACME-Challenge.A.test. 0 IN TXT %s"}},
		"in three strings": {"dns:a.test", []string{"_acme-challenge.a.test. 0 IN TXT " + strings.Join([]string{record(t)[:3], record(t)[3:20], record(t)[20:]}, " ")}},
	} {
		t.Run(what, func(t *testing.T) {
			d := dnstest.New(t)
			for _, r := range c.records {
				if strings.Contains(r, "%s") {
					r = fmt.Sprintf(r, record(t))
				}
				d.Add(t, r)
			}
			seen, p := newValidator(t, validate.Config{Resolver: d.Addr}).Validate(t.Context(), check(t, acme.DNS01, c.who))
			if p != nil || seen.Remote.String() != d.Addr {
				t.Fatalf("evidence %v, %v", seen, p)
			}
		})
	}
}

func TestDNS01UsesTCPWhenTheAnswerIsLong(t *testing.T) {
	d := dnstest.New(t)
	for i := range 40 {
		d.Add(t, fmt.Sprintf("_acme-challenge.a.test. 0 IN TXT %043d", i))
	}
	d.SetTXT("_acme-challenge.a.test", record(t))
	if _, p := newValidator(t, validate.Config{Resolver: d.Addr}).Validate(t.Context(), check(t, acme.DNS01, "dns:a.test")); p != nil {
		t.Fatal(p)
	}
	if n := len(d.Asked()); n != 2 {
		t.Errorf("%d questions, want one by UDP and one by TCP", n)
	}
}

func TestDNS01Refuses(t *testing.T) {
	chain := []string{"_acme-challenge.a.test. 0 IN CNAME c0.test."}
	for i := range 12 {
		chain = append(chain, fmt.Sprintf("c%d.test. 0 IN CNAME c%d.test.", i, i+1))
	}
	other := check(t, acme.DNS01, "dns:a.test")
	other.KeyAuthorization = "another." + keyAuth
	for what, c := range map[string]struct {
		records []string
		want    acme.ErrorType
		words   string
	}{
		"no such name":          {nil, acme.DNS, "NXDOMAIN"},
		"no TXT":                {[]string{"_acme-challenge.a.test. 0 IN A 192.0.2.1"}, acme.Unauthorized, "no TXT record"},
		"the key authorization": {[]string{"_acme-challenge.a.test. 0 IN TXT " + keyAuth}, acme.IncorrectResponse, "none of the 1"},
		"another's digest":      {[]string{"_acme-challenge.a.test. 0 IN TXT " + other.Record()}, acme.IncorrectResponse, "none"},
		"with padding":          {[]string{"_acme-challenge.a.test. 0 IN TXT " + record(t) + "="}, acme.IncorrectResponse, "none"},
		"at the name itself":    {[]string{"a.test. 0 IN TXT " + record(t)}, acme.DNS, "NXDOMAIN"},
		"CNAME loop":            {[]string{"_acme-challenge.a.test. 0 IN CNAME b.test.", "b.test. 0 IN CNAME _acme-challenge.a.test."}, acme.DNS, "CNAMEs"},
		"CNAME to itself":       {[]string{"_acme-challenge.a.test. 0 IN CNAME _acme-challenge.a.test."}, acme.DNS, "CNAMEs"},
		"too many CNAMEs":       {chain, acme.DNS, "CNAMEs"},
		"CNAME to nowhere":      {[]string{"_acme-challenge.a.test. 0 IN CNAME gone.test."}, acme.DNS, "NXDOMAIN"},
	} {
		t.Run(what, func(t *testing.T) {
			d := dnstest.New(t)
			d.Add(t, c.records...)
			_, p := newValidator(t, validate.Config{Resolver: d.Addr}).Validate(t.Context(), check(t, acme.DNS01, "dns:a.test"))
			refused(t, p, c.want, c.words)
		})
	}
}

func TestResolverBelievesOnlyAnswersToItsQuestion(t *testing.T) {
	rr, err := dns.NewRR("_acme-challenge.a.test. 0 IN TXT " + record(t))
	if err != nil {
		t.Fatal(err)
	}
	for what, answer := range map[string]func(*dns.Msg) *dns.Msg{
		"SERVFAIL": func(q *dns.Msg) *dns.Msg { return new(dns.Msg).SetRcode(q, dns.RcodeServerFailure) },
		"REFUSED":  func(q *dns.Msg) *dns.Msg { return new(dns.Msg).SetRcode(q, dns.RcodeRefused) },
		"another question": func(q *dns.Msg) *dns.Msg {
			m := new(dns.Msg).SetReply(q)
			m.Question[0].Name, m.Answer = "b.test.", []dns.RR{rr}
			return m
		},
		"another type": func(q *dns.Msg) *dns.Msg {
			m := new(dns.Msg).SetReply(q)
			m.Question[0].Qtype, m.Answer = dns.TypeA, []dns.RR{rr}
			return m
		},
		"no response bit": func(q *dns.Msg) *dns.Msg {
			m := new(dns.Msg).SetReply(q)
			m.Response, m.Answer = false, []dns.RR{rr}
			return m
		},
		"truncated by TCP too": func(q *dns.Msg) *dns.Msg {
			m := new(dns.Msg).SetReply(q)
			m.Truncated = true
			return m
		},
	} {
		t.Run(what, func(t *testing.T) {
			d := dnstest.New(t)
			d.Answer(answer)
			_, p := newValidator(t, validate.Config{Resolver: d.Addr}).Validate(t.Context(), check(t, acme.DNS01, "dns:a.test"))
			refused(t, p, acme.DNS)
		})
	}
}

func TestAnswersForAnotherOwnerDoNotCount(t *testing.T) {
	rr, err := dns.NewRR("_acme-challenge.b.test. 0 IN TXT " + record(t))
	if err != nil {
		t.Fatal(err)
	}
	d := dnstest.New(t)
	d.Answer(func(q *dns.Msg) *dns.Msg {
		m := new(dns.Msg).SetReply(q)
		m.Answer = []dns.RR{rr}
		return m
	})
	_, p := newValidator(t, validate.Config{Resolver: d.Addr}).Validate(t.Context(), check(t, acme.DNS01, "dns:a.test"))
	refused(t, p, acme.Unauthorized, "no TXT record")
}

func TestNamesWithoutAddressesAreDNSProblems(t *testing.T) {
	d := dnstest.New(t)
	d.Add(t, "empty.test. 0 IN TXT hello", "loop.test. 0 IN CNAME loop.test.")
	d.Fail("broken.test", dns.RcodeServerFailure)
	v := newValidator(t, validate.Config{Resolver: d.Addr, Egress: loopback})
	for who, words := range map[string]string{
		"dns:gone.test": "NXDOMAIN", "dns:empty.test": "no address", "dns:loop.test": "CNAMEs", "dns:broken.test": "SERVFAIL",
	} {
		for _, m := range []acme.Method{acme.HTTP01, acme.TLSALPN01} {
			_, p := v.Validate(t.Context(), check(t, m, who))
			refused(t, p, acme.DNS, words)
		}
	}
}

func TestLocalhostIsNeverAskedOfDNS(t *testing.T) {
	d := dnstest.New(t)
	v := newValidator(t, validate.Config{Resolver: d.Addr}) // loopback is not allowed: the answer is the egress rule's
	for _, who := range []string{"dns:localhost", "dns:a.b.localhost"} {
		_, p := v.Validate(t.Context(), check(t, acme.HTTP01, who))
		refused(t, p, acme.Connection, "loopback")
	}
	if asked := d.Asked(); len(asked) != 0 { // RFC 6761 §6.3
		t.Errorf("asked %v", asked)
	}
}
