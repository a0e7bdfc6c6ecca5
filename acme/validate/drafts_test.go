package validate_test

import (
	"fmt"
	"testing"
	"time"

	"codeberg.org/dataverket/segl/acme"
	"codeberg.org/dataverket/segl/acme/validate"
	"codeberg.org/dataverket/segl/acme/validate/dnstest"

	acmez "github.com/mholt/acmez/v3/acme"
)

var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func draft(t *testing.T, m acme.Method, who string, records ...string) *acme.Problem {
	t.Helper()
	d := dnstest.New(t)
	d.Add(t, records...)
	c := check(t, m, who)
	c.Account = accountURL
	v := newValidator(t, validate.Config{Resolver: d.Addr, CAA: us, Now: func() time.Time { return noon }})
	_, p := v.Validate(t.Context(), c)
	return p
}

func TestDNSAccount01LooksUnderTheAccountsLabel(t *testing.T) {
	theirs := acmez.Challenge{Identifier: acmez.Identifier{Type: "dns", Value: "a.test"}}
	owner := theirs.DNSAccount01TXTRecordName(acmez.Account{Location: accountURL}) // another's reading of the draft
	if p := draft(t, acme.DNSAccount01, "dns:a.test", fmt.Sprintf("%s. 0 IN TXT %s", owner, record(t))); p != nil {
		t.Error(p)
	}
	if p := draft(t, acme.DNSAccount01, "dns:*.a.test", fmt.Sprintf("%s. 0 IN TXT %s", owner, record(t))); p != nil {
		t.Error(p)
	}
	other := theirs.DNSAccount01TXTRecordName(acmez.Account{Location: accountURL + "2"})
	refused(t, draft(t, acme.DNSAccount01, "dns:a.test", fmt.Sprintf("%s. 0 IN TXT %s", other, record(t))), acme.DNS, "NXDOMAIN")
	refused(t, draft(t, acme.DNSAccount01, "dns:a.test", "_acme-challenge.a.test. 0 IN TXT "+record(t)), acme.DNS, "NXDOMAIN")
	refused(t, draft(t, acme.DNSAccount01, "dns:a.test", owner+". 0 IN TXT other"), acme.IncorrectResponse, "none of the 1")
}

func persist(value string) string {
	return fmt.Sprintf("_validation-persist.a.test. 0 IN TXT %q", value)
}

func TestDNSPersist01AcceptsTheAccountsRecord(t *testing.T) {
	theirs := acmez.Challenge{Identifier: acmez.Identifier{Type: "dns", Value: "a.test"}}
	at := acmez.Account{Location: accountURL}
	for what, c := range map[string]struct{ who, value string }{
		"as another writes it": {"dns:a.test", theirs.DNSPersist01TXTRecordValue(at, "ca.test", false)},
		"wildcard":             {"dns:*.a.test", theirs.DNSPersist01TXTRecordValue(at, "ca.test", true)},
		"name, by a wildcard":  {"dns:a.test", theirs.DNSPersist01TXTRecordValue(at, "ca.test", true)},
		"in capitals":          {"dns:*.a.test", "CA.test; AccountURI=" + accountURL + "; POLICY=Wildcard"},
		"for a second more":    {"dns:a.test", fmt.Sprintf("ca.test; accounturi=%s; persistUntil=%d", accountURL, noon.Unix()+1)},
		"an unknown parameter": {"dns:a.test", "ca.test; accounturi=" + accountURL + "; later=1"},
	} {
		t.Run(what, func(t *testing.T) {
			if p := draft(t, acme.DNSPersist01, c.who, persist(c.value), persist("other.test; accounturi=x")); p != nil {
				t.Error(p)
			}
		})
	}
}

func TestDNSPersist01Refuses(t *testing.T) {
	good := "ca.test; accounturi=" + accountURL
	for what, c := range map[string]struct{ who, value, words string }{
		"another issuer":        {"dns:a.test", "other.test; accounturi=" + accountURL, "another issuer"},
		"no account":            {"dns:a.test", "ca.test", "another one"},
		"another account":       {"dns:a.test", good + "2", "another one"},
		"two accounts":          {"dns:a.test", good + "; accounturi=" + accountURL, "twice"},
		"wildcard not allowed":  {"dns:*.a.test", good, "policy=wildcard"},
		"another policy":        {"dns:*.a.test", good + "; policy=all", "policy=wildcard"},
		"policy twice":          {"dns:*.a.test", good + "; policy=wildcard; policy=wildcard", "twice"},
		"passed":                {"dns:a.test", fmt.Sprintf("%s; persistUntil=%d", good, noon.Unix()), "persistUntil"},
		"until no number":       {"dns:a.test", good + "; persistUntil=tomorrow", "persistUntil"},
		"until a negative":      {"dns:a.test", good + "; persistUntil=-1", "persistUntil"},
		"until far too much":    {"dns:a.test", good + "; persistUntil=99999999999999999999999", "persistUntil"},
		"not the grammar":       {"dns:a.test", good + "; x", "issue-value"},
		"a key authorization":   {"dns:a.test", keyAuth, "another issuer"},
		"the parent's, as ours": {"dns:x.a.test", good, ""},
	} {
		t.Run(what, func(t *testing.T) {
			p := draft(t, acme.DNSPersist01, c.who, persist(c.value))
			want := acme.Unauthorized
			if what == "the parent's, as ours" {
				want = acme.DNS
			}
			refused(t, p, want, c.words)
		})
	}
}

func TestDNSPersist01WithoutAClockTakesNothingThatExpires(t *testing.T) {
	d := dnstest.New(t)
	d.Add(t, persist(fmt.Sprintf("ca.test; accounturi=%s; persistUntil=%d", accountURL, noon.Unix()+1000)))
	c := check(t, acme.DNSPersist01, "dns:a.test")
	c.Account = accountURL
	_, p := newValidator(t, validate.Config{Resolver: d.Addr, CAA: us}).Validate(t.Context(), c)
	refused(t, p, acme.Unauthorized, "persistUntil")
}

func TestDraftsNeedToKnowTheAccountAndUs(t *testing.T) {
	for _, m := range []acme.Method{acme.DNSAccount01, acme.DNSPersist01} {
		_, p := newValidator(t, validate.Config{}).Validate(t.Context(), check(t, m, "dns:a.test"))
		refused(t, p, acme.Malformed, "known here")
	}
}
