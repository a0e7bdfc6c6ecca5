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

const accountURL = "https://ca.test/acme/-/demo/acct/1"

var us = validate.CAA{Identities: []string{"ca.test", "old.ca.test"}, Private: []string{"internal"}}

func permit(t *testing.T, who string, m acme.Method, records ...string) (*acme.Problem, []string) {
	t.Helper()
	d := dnstest.New(t)
	d.Add(t, records...)
	c := check(t, m, who)
	c.Account = accountURL
	p := newValidator(t, validate.Config{Resolver: d.Addr, CAA: us}).Permit(t.Context(), c)
	return p, d.Asked()
}

func caa(owner, text string) string { return owner + ". 0 IN CAA " + text }

func TestCAAPermits(t *testing.T) {
	for what, c := range map[string]struct {
		who     string
		method  acme.Method
		records []string
	}{
		"no record anywhere":           {"dns:www.a.test", acme.HTTP01, nil},
		"by our name":                  {"dns:a.test", acme.HTTP01, []string{caa("a.test", `0 issue "ca.test"`)}},
		"by our other name":            {"dns:a.test", acme.HTTP01, []string{caa("a.test", `0 issue "old.ca.test"`)}},
		"in upper case":                {"dns:a.test", acme.HTTP01, []string{caa("a.test", `0 ISSUE "CA.Test"`)}},
		"with white space":             {"dns:a.test", acme.HTTP01, []string{caa("a.test", `0 issue "  ca.test ; "`)}},
		"critical and known":           {"dns:a.test", acme.HTTP01, []string{caa("a.test", `128 issue "ca.test"`)}},
		"beside another":               {"dns:a.test", acme.HTTP01, []string{caa("a.test", `0 issue "other.test"`), caa("a.test", `0 issue "ca.test"`)}},
		"only a report address":        {"dns:a.test", acme.HTTP01, []string{caa("a.test", `0 iodef "mailto:x@a.test"`)}},
		"unknown, not critical":        {"dns:a.test", acme.HTTP01, []string{caa("a.test", `0 future "x"`)}},
		"wildcards of others only":     {"dns:a.test", acme.HTTP01, []string{caa("a.test", `0 issuewild "other.test"`)}},
		"the parent":                   {"dns:x.y.a.test", acme.HTTP01, []string{caa("a.test", `0 issue "ca.test"`)}},
		"nearer than a parent's no":    {"dns:x.a.test", acme.HTTP01, []string{caa("x.a.test", `0 issue "ca.test"`), caa("a.test", `0 issue ";"`)}},
		"wildcard by issue":            {"dns:*.a.test", acme.DNS01, []string{caa("a.test", `0 issue "ca.test"`)}},
		"wildcard by issuewild":        {"dns:*.a.test", acme.DNS01, []string{caa("a.test", `0 issue ";"`), caa("a.test", `0 issuewild "ca.test"`)}},
		"through a CNAME":              {"dns:a.test", acme.HTTP01, []string{"a.test. 0 IN CNAME b.test.", caa("b.test", `0 issue "ca.test"`)}},
		"CNAME to nothing, the parent": {"dns:x.a.test", acme.HTTP01, []string{"x.a.test. 0 IN CNAME gone.else.", caa("a.test", `0 issue "ca.test"`)}},
		"our account":                  {"dns:a.test", acme.HTTP01, []string{caa("a.test", `0 issue "ca.test; accounturi=`+accountURL+`"`)}},
		"our method":                   {"dns:a.test", acme.DNS01, []string{caa("a.test", `0 issue "ca.test; validationmethods=http-01,dns-01"`)}},
		"account and method":           {"dns:a.test", acme.DNS01, []string{caa("a.test", `0 issue "ca.test; validationmethods=dns-01; accounturi=`+accountURL+`"`)}},
		"another parameter":            {"dns:a.test", acme.HTTP01, []string{caa("a.test", `0 issue "ca.test; future=1"`)}},
		"one of two properties":        {"dns:a.test", acme.HTTP01, []string{caa("a.test", `0 issue "ca.test; validationmethods=dns-01"`), caa("a.test", `0 issue "ca.test; validationmethods=http-01"`)}},
		"private, whatever it says":    {"dns:a.internal", acme.HTTP01, []string{caa("a.internal", `0 issue ";"`)}},
		"addresses have none":          {"ip:192.0.2.1", acme.HTTP01, nil},
	} {
		t.Run(what, func(t *testing.T) {
			if p, asked := permit(t, c.who, c.method, c.records...); p != nil {
				t.Errorf("refused with %v after asking %v", p, asked)
			}
		})
	}
}

func TestCAAForbids(t *testing.T) {
	for what, c := range map[string]struct {
		who     string
		method  acme.Method
		records []string
		words   string
	}{
		"nobody":                     {"dns:a.test", acme.HTTP01, []string{caa("a.test", `0 issue ";"`)}, "no issue property"},
		"an empty value":             {"dns:a.test", acme.HTTP01, []string{caa("a.test", `0 issue ""`)}, "no issue property"},
		"another issuer":             {"dns:a.test", acme.HTTP01, []string{caa("a.test", `0 issue "other.test"`)}, "no issue property"},
		"a name below ours":          {"dns:a.test", acme.HTTP01, []string{caa("a.test", `0 issue "x.ca.test"`)}, "no issue property"},
		"a name above ours":          {"dns:a.test", acme.HTTP01, []string{caa("a.test", `0 issue "test"`)}, "no issue property"},
		"the parent does":            {"dns:x.a.test", acme.HTTP01, []string{caa("a.test", `0 issue ";"`)}, "at a.test"},
		"nearer than a parent's yes": {"dns:x.a.test", acme.HTTP01, []string{caa("x.a.test", `0 issue ";"`), caa("a.test", `0 issue "ca.test"`)}, "at x.a.test"},
		"the top does":               {"dns:x.a.test", acme.HTTP01, []string{caa("test", `0 issue ";"`)}, "at test"},
		"critical and unknown":       {"dns:a.test", acme.HTTP01, []string{caa("a.test", `0 issue "ca.test"`), caa("a.test", `128 future "x"`)}, "critical"},
		"wildcard by issuewild":      {"dns:*.a.test", acme.DNS01, []string{caa("a.test", `0 issue "ca.test"`), caa("a.test", `0 issuewild ";"`)}, "no issuewild"},
		"wildcard by issue":          {"dns:*.a.test", acme.DNS01, []string{caa("a.test", `0 issue ";"`)}, "no issue property"},
		"name by issue, not wild":    {"dns:a.test", acme.DNS01, []string{caa("a.test", `0 issue ";"`), caa("a.test", `0 issuewild "ca.test"`)}, "no issue property"},
		"not the grammar":            {"dns:a.test", acme.HTTP01, []string{caa("a.test", `0 issue "ca.test x"`)}, "no issue property"},
		"a parameter without value":  {"dns:a.test", acme.HTTP01, []string{caa("a.test", `0 issue "ca.test; x"`)}, "no issue property"},
		"another account":            {"dns:a.test", acme.HTTP01, []string{caa("a.test", `0 issue "ca.test; accounturi=`+accountURL+`2"`)}, "another account"},
		"an empty account":           {"dns:a.test", acme.HTTP01, []string{caa("a.test", `0 issue "ca.test; accounturi="`)}, "another account"},
		"two accounts":               {"dns:a.test", acme.HTTP01, []string{caa("a.test", `0 issue "ca.test; accounturi=`+accountURL+`; accounturi=`+accountURL+`"`)}, "another account"},
		"another method":             {"dns:a.test", acme.HTTP01, []string{caa("a.test", `0 issue "ca.test; validationmethods=dns-01"`)}, "another method"},
		"methods twice":              {"dns:a.test", acme.HTTP01, []string{caa("a.test", `0 issue "ca.test; validationmethods=http-01; validationmethods=http-01"`)}, "another method"},
		"no method":                  {"dns:a.test", acme.HTTP01, []string{caa("a.test", `0 issue "ca.test; validationmethods="`)}, "another method"},
		"method not the grammar":     {"dns:a.test", acme.HTTP01, []string{caa("a.test", `0 issue "ca.test; validationmethods=http-01,,x"`)}, "another method"},
		"through a CNAME":            {"dns:a.test", acme.HTTP01, []string{"a.test. 0 IN CNAME b.else.", caa("b.else", `0 issue ";"`)}, "no issue property"},
		"a zone that only ends so":   {"dns:a.notinternal", acme.HTTP01, []string{caa("a.notinternal", `0 issue ";"`)}, "no issue property"},
	} {
		t.Run(what, func(t *testing.T) {
			p, _ := permit(t, c.who, c.method, c.records...)
			refused(t, p, acme.CAA, c.words)
		})
	}
}

func TestCAAThatCannotBeFoundOutForbids(t *testing.T) {
	for what, prepare := range map[string]func(*testing.T, *dnstest.Server){
		"at the name":   func(_ *testing.T, d *dnstest.Server) { d.Fail("x.a.test", dns.RcodeServerFailure) },
		"at the parent": func(_ *testing.T, d *dnstest.Server) { d.Fail("a.test", dns.RcodeServerFailure) },
		"at the top":    func(_ *testing.T, d *dnstest.Server) { d.Fail("test", dns.RcodeRefused) },
		"a CNAME loop":  func(t *testing.T, d *dnstest.Server) { d.Add(t, "x.a.test. 0 IN CNAME x.a.test.") },
	} {
		t.Run(what, func(t *testing.T) {
			d := dnstest.New(t)
			prepare(t, d)
			p := newValidator(t, validate.Config{Resolver: d.Addr, CAA: us}).Permit(t.Context(), check(t, acme.HTTP01, "dns:x.a.test"))
			refused(t, p, acme.DNS, "CAA")
		})
	}
}

func TestCAAIsNotAskedForWhereNobodyCanNameUs(t *testing.T) {
	d := dnstest.New(t)
	d.Add(t, caa("a.test", `0 issue ";"`))
	v := newValidator(t, validate.Config{Resolver: d.Addr})
	if p := v.Permit(t.Context(), check(t, acme.HTTP01, "dns:a.test")); p != nil || len(d.Asked()) != 0 {
		t.Errorf("%v after %v", p, d.Asked())
	}
}

func TestCAAStopsAtTheFirstSet(t *testing.T) {
	_, asked := permit(t, "dns:x.y.a.test", acme.HTTP01, caa("y.a.test", `0 issue "ca.test"`))
	if got := strings.Join(asked, ","); got != "x.y.a.test. CAA,y.a.test. CAA" {
		t.Errorf("asked %s", got)
	}
}

func TestNewRefusesIdentitiesThatAreNoNames(t *testing.T) {
	for _, bad := range []validate.CAA{{Identities: []string{"CA.test"}}, {Identities: []string{"*.test"}}, {Private: []string{"a."}}} {
		if _, err := validate.New(validate.Config{CAA: bad}); err == nil || !strings.Contains(err.Error(), "ca.example") {
			t.Errorf("%v: %v", bad, err)
		}
	}
}

func FuzzCAAValues(f *testing.F) {
	for _, s := range []string{"ca.test", "ca.test; a=b", ";", "ca.test; accounturi=" + accountURL, "x;=", "\x00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		issuer, parameters, ok := validate.ParseIssue(s)
		if !ok {
			return
		}
		again := issuer
		for _, p := range parameters {
			again += "; " + p[0] + "=" + p[1]
		}
		issuer2, parameters2, ok := validate.ParseIssue(again)
		if !ok || issuer2 != issuer || fmt.Sprint(parameters2) != fmt.Sprint(parameters) {
			t.Errorf("%q was read as %q %q, and that as %q %q", s, issuer, parameters, issuer2, parameters2)
		}
	})
}
