package ca_test

import (
	"encoding/base64"
	"strings"
	"testing"
	"time"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/pkitest"
	"codeberg.org/dataverket/segl/internal/policy"
	"codeberg.org/dataverket/segl/internal/uid"
)

func invite(t *testing.T, h *pkitest.House, in ca.Invitation) string {
	t.Helper()
	token, e, err := h.Invite(t.Context(), demo, in)
	must(t, err)
	if !strings.HasPrefix(token, "segl_enrol_"+e.Token.String()) {
		t.Fatalf("the token does not say what it is")
	}
	return token
}

func TestATokenLetsOneKeyIn(t *testing.T) {
	h, key := pkitest.New(t), pkitest.Key(t)
	token := invite(t, h, ca.Invitation{Scope: pkitest.Demo, Workload: "web"})
	first, err := h.Enrol(t.Context(), stranger, token, pkitest.CSR(t, key))
	if err != nil || first.Identity().Workload() != "web" || first.Scope != pkitest.Demo || first.Profile != "workload" {
		t.Fatalf("%s in %s, %v", first.Identity(), first.Scope, err)
	}
	again, err := h.Enrol(t.Context(), stranger, token, pkitest.CSR(t, key))
	if err != nil || again.Serial != first.Serial {
		t.Fatalf("the same key again: %s, %v; want %s", again.Serial, err, first.Serial)
	}
	_, err = h.Enrol(t.Context(), stranger, token, pkitest.CSR(t, pkitest.Key(t)))
	refusedBy(t, h, "another key", err, "one origin has one certificate", ca.ErrTokenUsed)
	var used int
	err = h.DB.QueryRow(t.Context(), `
		SELECT count(*)
		FROM   fact
		WHERE  serial = $1 AND allowed AND what IN ('enrolment.use', 'certificate.issue') AND actor LIKE 'enrolment:30%'`,
		first.Serial.Bytes()).Scan(&used)
	if err != nil || used != 2 {
		t.Errorf("%d facts, want of the use and of the certificate: %v", used, err)
	}
}

func TestEnrolRefuses(t *testing.T) {
	h := pkitest.New(t)
	token := invite(t, h, ca.Invitation{Scope: pkitest.Demo, Workload: "web", Names: []cert.Name{name(t, "dns:web.demo.test")}})
	other := invite(t, h, ca.Invitation{Scope: pkitest.Demo, Workload: "web"})
	cut := len("segl_enrol_") + 2*uid.Size
	for what, bad := range map[string]string{
		"nothing": "", "no prefix": token[len("segl_enrol_"):], "another prefix": "ghp_" + token[len("segl_enrol_"):], "no secret": token[:cut], "an empty secret": token[:cut+1],
		"one character short": token[:len(token)-1], "one more": token + "A", "a line break": token + "\n", "upper case": strings.ToUpper(token),
		"another's secret": token[:cut] + other[cut:],
		"an unknown one":   "segl_enrol_" + uid.New(uid.Enrolment, 1, h.Now()).String() + token[cut:],
		"a serial":         "segl_enrol_" + uid.New(uid.Certificate, 1, h.Now()).String() + token[cut:],
		"padding":          token + "=", "long": token + strings.Repeat("A", 1000), "a NUL": "\x00" + token,
	} {
		_, err := h.Enrol(t.Context(), stranger, bad, pkitest.CSR(t, pkitest.Key(t)))
		refusedBy(t, h, what, err, "one-time enrolment", nil)
		if err != nil && len(bad) > cut && strings.Contains(err.Error(), bad[cut:]) {
			t.Errorf("%s: the refusal tells the secret", what)
		}
	}
	for what, names := range map[string][]string{
		"a name beyond the token's": {"dns:a.demo.test"}, "another identity": {"uri:spiffe://segl.test/tenant/demo/project/shop/environment/dev/other"},
		"an identity of another domain": {"uri:spiffe://evil.test/tenant/demo/project/shop/environment/dev/web"},
	} {
		_, err := h.Enrol(t.Context(), stranger, token, pkitest.CSR(t, pkitest.Key(t), names...))
		refusedBy(t, h, what, err, "the enrolment token's names", nil)
	}
	_, err := h.Scopes.SetRights(t.Context(), identity.System("test"), pkitest.Scope("demo/shop"), policy.Rights{DNS: []string{}})
	must(t, err)
	_, err = h.Enrol(t.Context(), stranger, token, pkitest.CSR(t, pkitest.Key(t), "dns:web.demo.test"))
	refusedBy(t, h, "rights narrowed since", err, "the name rights of demo/shop", nil)
	_, err = h.Scopes.SetRights(t.Context(), identity.System("test"), pkitest.Scope("demo/shop"), policy.Rights{})
	must(t, err)
	c, err := h.Enrol(t.Context(), stranger, token, pkitest.CSR(t, pkitest.Key(t), "dns:web.demo.test"))
	if err != nil || len(c.Names) != 2 {
		t.Errorf("after all of that: %v, %v", c.Names, err)
	}
	h.Advance(ca.DefaultTokenLife)
	_, err = h.Enrol(t.Context(), stranger, other, pkitest.CSR(t, pkitest.Key(t)))
	refusedBy(t, h, "an expired one", err, "one-time enrolment", nil)
}

func name(t *testing.T, s string) cert.Name {
	t.Helper()
	n, err := cert.ParseName(s)
	must(t, err)
	return n
}

func TestInviteRefuses(t *testing.T) {
	h := pkitest.New(t)
	for what, c := range map[string]struct {
		who  identity.Caller
		in   ca.Invitation
		rule string
	}{
		"another tenant":       {pkitest.Workload(pkitest.Scope("other"), "x"), ca.Invitation{Scope: pkitest.Demo, Workload: "web"}, "roles: nothing grants this caller anything there"},
		"a child":              {demo, ca.Invitation{Scope: pkitest.Scope("demo"), Workload: "web"}, "roles: nothing grants this caller anything there"},
		"a server's profile":   {demo, ca.Invitation{Scope: pkitest.Demo, Workload: "web", Profile: "server"}, "enrolment gives identities"},
		"a role's profile":     {demo, ca.Invitation{Scope: pkitest.Demo, Workload: "web", Profile: "database-client"}, "enrolment gives identities"},
		"an unknown profile":   {demo, ca.Invitation{Scope: pkitest.Demo, Workload: "web", Profile: "x"}, "the list of profiles"},
		"a long life":          {demo, ca.Invitation{Scope: pkitest.Demo, Workload: "web", Life: ca.MaxTokenLife + time.Second}, "enrolment tokens"},
		"a negative life":      {demo, ca.Invitation{Scope: pkitest.Demo, Workload: "web", Life: -time.Hour}, "enrolment tokens"},
		"no workload":          {demo, ca.Invitation{Scope: pkitest.Demo}, "the form of an identity"},
		"a NUL as workload":    {demo, ca.Invitation{Scope: pkitest.Demo, Workload: "\x00"}, "the form of an identity"},
		"a path as workload":   {demo, ca.Invitation{Scope: pkitest.Demo, Workload: "a/b"}, "the form of an identity"},
		"a name beyond rights": {demo, ca.Invitation{Scope: pkitest.Demo, Workload: "web", Names: []cert.Name{name(t, "dns:evil.test")}}, "the name rights of demo"},
	} {
		token, _, err := h.Invite(t.Context(), c.who, c.in)
		refusedBy(t, h, what, err, c.rule, nil)
		if token != "" {
			t.Errorf("%s: gave a token", what)
		}
	}
}

func FuzzSplitToken(f *testing.F) {
	good := "segl_enrol_" + uid.New(uid.Enrolment, 1, time.Unix(1_800_000_000, 0)).String() + "_" + strings.Repeat("A", 43)
	f.Add(good)
	f.Add(good + "=")
	f.Add(good[:60] + "\n" + good[60:])
	f.Add(good[:len(good)-1] + "B")
	f.Fuzz(func(t *testing.T, s string) {
		id, secret, ok := ca.SplitToken(s)
		if ok && "segl_enrol_"+id.String()+"_"+base64.RawURLEncoding.EncodeToString(secret) != s {
			t.Fatalf("%q has a second spelling", s)
		}
	})
}
