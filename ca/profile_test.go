package ca_test

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/pkitest"
)

const dayLong = 24 * time.Hour

// serverSpec is what profile server is founded with.
func serverSpec() ca.Spec {
	return ca.Spec{
		Purpose: ca.Servers, Life: ca.Span(30 * dayLong), MaxLife: ca.Span(90 * dayLong), Hosts: "required", Usage: []string{"server"},
		Keys: []string{"p256", "p384", "ed25519", "rsa2048"},
	}
}

func set(t *testing.T, h *pkitest.House, scope identity.Scope, name string, spec ca.Spec) *ca.Profile {
	t.Helper()
	p, err := h.SetProfile(t.Context(), platformOperator, ca.ProfileChange{Scope: scope, Name: name, Spec: spec, After: -1})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// version is what the fact of its issuance says of a certificate's profile.
func version(t *testing.T, h *pkitest.House, c ca.Certificate) string {
	t.Helper()
	var why string
	err := h.DB.QueryRow(t.Context(), `
		SELECT coalesce(why, '')
		FROM   fact
		WHERE  serial = $1 AND what = 'certificate.issue'`, c.Serial.Bytes()).Scan(&why)
	if err != nil {
		t.Fatal(err)
	}
	return why
}

func TestANewLedgerHasTheStandardProfiles(t *testing.T) {
	h := pkitest.New(t)
	if got := h.ProfileNames(); !slices.Equal(slices.Sorted(slices.Values(ca.StandardProfiles)), got) {
		t.Errorf("%v", got)
	}
	said, err := h.Declared(identity.Platform, "server")
	if err != nil || string(said.JSON()) != string(serverSpec().JSON()) || len(h.Shut()) > 0 {
		t.Errorf("%s, %v, %v", said.JSON(), err, h.Shut())
	}
	if v := version(t, h, server(t, h, "a.demo.test")); v != "" {
		t.Errorf("by the rules of a new ledger, and its fact says %q", v)
	}
}

func TestAProfileThatContradictsItselfIsRefused(t *testing.T) {
	h := pkitest.New(t)
	change := func(f func(*ca.Spec)) ca.Spec {
		s := serverSpec()
		f(&s)
		return s
	}
	for name, s := range map[string]ca.Spec{
		"of no purpose":                  change(func(s *ca.Spec) { s.Purpose = "" }),
		"of a root":                      change(func(s *ca.Spec) { s.Purpose = ca.Root }),
		"longer than anything is kept":   change(func(s *ca.Spec) { s.MaxLife = ca.Span(91 * dayLong) }),
		"shorter by default than ever":   change(func(s *ca.Spec) { s.Life = ca.Span(time.Second) }),
		"longer by default than at most": change(func(s *ca.Spec) { s.Life, s.MaxLife = ca.Span(2*dayLong), ca.Span(dayLong) }),
		"of half a second":               change(func(s *ca.Spec) { s.Life = ca.Span(dayLong + time.Second/2) }),
		"of no usage":                    change(func(s *ca.Spec) { s.Usage = nil }),
		"that answers OCSP":              change(func(s *ca.Spec) { s.Usage = []string{"ocsp-signing"} }),
		"of any usage":                   change(func(s *ca.Spec) { s.Usage = []string{"any"} }),
		"that names nobody":              change(func(s *ca.Spec) { s.Hosts = "" }),
		"with a word of its own":         change(func(s *ca.Spec) { s.Hosts = "Required" }),
		"of a server with a role":        change(func(s *ca.Spec) { s.Role, s.Identity = true, "required" }),
		"of no key":                      change(func(s *ca.Spec) { s.Keys = []string{} }),
		"of an unknown key":              change(func(s *ca.Spec) { s.Keys = []string{"p521"} }),
		"of a key twice":                 change(func(s *ca.Spec) { s.Keys = []string{"p256", "p256"} }),
		"that nobody can ask about":      change(func(s *ca.Spec) { s.Addresses = []string{"issuers"} }),
		"with an address of its own":     change(func(s *ca.Spec) { s.Addresses = []string{"crl", "http"} }),
		"noRevAvail for a month":         change(func(s *ca.Spec) { s.NoRevAvail = true }),
		"noRevAvail beside a list":       change(func(s *ca.Spec) { s.NoRevAvail, s.Life, s.MaxLife, s.Addresses = true, 0, 0, []string{"crl"} }),
		"noRevAvail and stapled":         change(func(s *ca.Spec) { s.NoRevAvail, s.Life, s.MaxLife, s.MustStaple = true, 0, 0, true }),
		"stapled by nobody":              change(func(s *ca.Spec) { s.MustStaple, s.Addresses = true, []string{"crl"} }),
		"stapled by a client":            change(func(s *ca.Spec) { s.MustStaple, s.Usage, s.Identity = true, []string{"client"}, "required" }),
		"with a novel for a summary":     change(func(s *ca.Spec) { s.Summary = strings.Repeat("a", 201) }),
	} {
		_, err := h.SetProfile(t.Context(), platformOperator, ca.ProfileChange{Scope: identity.Platform, Name: "server", Spec: s, After: -1})
		refusal(t, "a profile "+name, err)
	}
	for _, name := range []string{"", "UPPER", "a b", "-a", "root", "authority", "ocsp-responder", "${x}", strings.Repeat("a", 41)} {
		_, err := h.SetProfile(t.Context(), platformOperator, ca.ProfileChange{Scope: identity.Platform, Name: name, Spec: serverSpec(), After: -1})
		refusal(t, "the name "+name, err)
	}
	_, err := h.SetProfile(t.Context(), demo, ca.ProfileChange{Scope: pkitest.Demo, Name: "server", Spec: ca.Spec{MaxLife: ca.Span(dayLong)}, After: -1})
	refusal(t, "a workload's change", err)
	for _, text := range []string{``, `[]`, `{"max_lif": "1d"}`, `{} {}`, `{"life": "1y"}`, `{"life": -1}`, `{"summary": "` + strings.Repeat("a", 5000) + `"}`} {
		if s, err := ca.ParseSpec([]byte(text)); err == nil && text != `{}` {
			t.Errorf("%.60s was read: %+v", text, s)
		}
	}
}

func TestAChangeHoldsFromTheNextCertificateOn(t *testing.T) {
	h := pkitest.New(t)
	s := serverSpec()
	s.Life, s.MaxLife, s.Keys, s.NoRevAvail = ca.Span(2*dayLong), ca.Span(3*dayLong), []string{"p384", "rsa3072"}, true
	p := set(t, h, identity.Platform, "server", s)
	if p.Revision != ca.Founded+1 {
		t.Errorf("revision %d", p.Revision)
	}
	ask := func(key any, life time.Duration) (ca.Certificate, error) {
		return h.Issue(t.Context(), demo, ca.Request{Scope: pkitest.Demo, Profile: "server", Life: life, CSR: pkitest.CSR(t, key, "dns:a.demo.test")})
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	must(t, err)
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	small, err := rsa.GenerateKey(rand.Reader, 2048)
	must(t, err)
	big, err := rsa.GenerateKey(rand.Reader, 3072)
	must(t, err)
	for name, key := range map[string]any{"P-256": pkitest.Key(t), "Ed25519": ed, "RSA of 2048 bits": small} {
		_, err := ask(key, 0)
		refusal(t, "a key of "+name, err)
	}
	_, err = ask(p384, 4*dayLong)
	refusal(t, "four days", err)
	for _, key := range []any{p384, big} {
		c, err := ask(key, 0)
		must(t, err)
		if got := c.NotAfter.Sub(c.NotBefore) + time.Second; got != 2*dayLong {
			t.Errorf("a life of %s", got)
		}
		if v := version(t, h, c); v != "profile server, revision 6" {
			t.Errorf("its fact says %q", v)
		}
		x, err := x509.ParseCertificate(c.DER)
		must(t, err)
		if !has(x, noRevAvail) || len(x.CRLDistributionPoints) > 0 || len(x.OCSPServer) > 0 {
			t.Errorf("noRevAvail %t, lists %v, responders %v", has(x, noRevAvail), x.CRLDistributionPoints, x.OCSPServer)
		}
	}
	s.Withdrawn = true
	set(t, h, identity.Platform, "server", s)
	_, err = ask(p384, 0)
	refusal(t, "a withdrawn profile", err)
}

var (
	noRevAvail = asn1.ObjectIdentifier{2, 5, 29, 56}
	mustStaple = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 24}
)

func has(x *x509.Certificate, id asn1.ObjectIdentifier) bool {
	for _, e := range x.Extensions {
		if e.Id.Equal(id) {
			return true
		}
	}
	return false
}

func TestAScopeNarrowsAndNeverWidens(t *testing.T) {
	h := pkitest.New(t)
	tenant := pkitest.Scope("demo")
	for name, s := range map[string]ca.Spec{
		"usage":        {Usage: []string{"server", "client"}},
		"names":        {Identity: "allowed"},
		"the purpose":  {Purpose: ca.Databases},
		"addresses":    {Addresses: []string{"crl"}},
		"noRevAvail":   {NoRevAvail: true},
		"no keys left": {Keys: []string{}},
	} {
		_, err := h.SetProfile(t.Context(), platformOperator, ca.ProfileChange{Scope: tenant, Name: "server", Spec: s, After: -1})
		refusal(t, "a tenant's "+name, err)
	}
	_, err := h.SetProfile(t.Context(), platformOperator, ca.ProfileChange{Scope: tenant, Name: "nothing", Spec: ca.Spec{MaxLife: ca.Span(dayLong)}, After: -1})
	refusal(t, "a profile of its own", err)
	_, err = h.SetProfile(t.Context(), platformOperator, ca.ProfileChange{Scope: pkitest.Scope("nobody"), Name: "server", Spec: ca.Spec{MaxLife: ca.Span(dayLong)}, After: -1})
	if !errors.Is(err, ca.ErrNotFound) {
		t.Errorf("nobody's profile: %v", err)
	}

	set(t, h, tenant, "server", ca.Spec{MaxLife: ca.Span(40 * dayLong), Life: ca.Span(20 * dayLong), Keys: []string{"p256", "rsa4096"}, MustStaple: true})
	set(t, h, pkitest.Demo, "server", ca.Spec{MaxLife: ca.Span(80 * dayLong), Life: ca.Span(70 * dayLong), Keys: []string{"p256", "p384", "rsa2048"}})
	p, err := h.Profile(pkitest.Demo, "server")
	must(t, err)
	if p.Max != 40*dayLong || p.Default != 40*dayLong || !p.MustStaple || fmt.Sprint(p.Keys) != "[p256 rsa4096]" {
		t.Errorf("%+v", p)
	}
	if p, err := h.Profile(pkitest.Scope("demo/shop"), "server"); err != nil || p.Default != 20*dayLong {
		t.Errorf("between: %+v, %v", p, err)
	}
	if p, err := h.Profile(identity.Platform, "server"); err != nil || p.Max != 90*dayLong || p.MustStaple {
		t.Errorf("above: %+v, %v", p, err)
	}
	c := server(t, h, "a.demo.test")
	x, err := x509.ParseCertificate(c.DER)
	must(t, err)
	if !has(x, mustStaple) || c.NotAfter.Sub(c.NotBefore) > 40*dayLong || version(t, h, c) != "profile server, revision 7" {
		t.Errorf("stapled %t, %s to %s, %q", has(x, mustStaple), c.NotBefore, c.NotAfter, version(t, h, c))
	}
	s := serverSpec()
	s.MaxLife, s.Life = ca.Span(10*dayLong), ca.Span(5*dayLong)
	set(t, h, identity.Platform, "server", s)
	if p, err := h.Profile(pkitest.Demo, "server"); err != nil || p.Max != 10*dayLong || p.Revision != 8 {
		t.Errorf("after the platform narrowed: %+v, %v", p, err)
	}
}

// Whatever changes while certificates are made, each is by one revision alone, the one that its fact names.
func TestUnderLoadACertificateIsWhollyOfOneRevision(t *testing.T) {
	h := pkitest.New(t)
	stapled, silent := serverSpec(), serverSpec()
	stapled.MustStaple, stapled.Life, stapled.Addresses = true, ca.Span(20*dayLong), []string{"ocsp"}
	silent.NoRevAvail, silent.Life, silent.MaxLife = true, ca.Span(dayLong), ca.Span(2*dayLong)
	set(t, h, identity.Platform, "server", stapled) // 6: even ones are stapled from here on, odd ones silent

	other := pkitest.On(t, h.DB) // another replica, which hears of nothing
	var done atomic.Bool
	var mu sync.Mutex
	var made []ca.Certificate
	var load sync.WaitGroup
	for i := range 8 {
		by := h
		if i%2 == 1 {
			by = other
		}
		load.Go(func() {
			for n := 0; !done.Load(); n++ {
				c, err := by.Issue(t.Context(), demo, ca.Request{Scope: pkitest.Demo, Profile: "server", CSR: pkitest.CSR(t, pkitest.Key(t), "dns:a.demo.test")})
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				made = append(made, c)
				mu.Unlock()
			}
		})
	}
	for i := range 20 {
		set(t, h, identity.Platform, "server", []ca.Spec{silent, stapled}[i%2])
		if i%5 == 0 {
			must(t, other.Reload(t.Context()))
		}
	}
	done.Store(true)
	load.Wait()
	seen := map[int]bool{}
	for _, c := range made {
		var revision int
		if _, err := fmt.Sscanf(version(t, h, c), "profile server, revision %d", &revision); err != nil {
			t.Fatalf("%s: its fact says %q", c.Serial, version(t, h, c))
		}
		x, err := x509.ParseCertificate(c.DER)
		must(t, err)
		life, even := c.NotAfter.Sub(c.NotBefore)+time.Second, revision%2 == 0
		seen[revision%2] = true
		if (life == 20*dayLong) != even || has(x, mustStaple) != even || has(x, noRevAvail) == even || (len(x.OCSPServer) == 1) != even {
			t.Errorf("revision %d: a life of %s, stapled %t, silent %t, responders %v", revision, life, has(x, mustStaple), has(x, noRevAvail), x.OCSPServer)
		}
	}
	if len(seen) != 2 {
		t.Errorf("of %d certificates all are by one kind of revision: this shows nothing", len(made))
	}
}

func TestOfTwoChangesAtOnceOneIsToldOfTheOther(t *testing.T) {
	h := pkitest.New(t)
	change := func(days int) error {
		s := serverSpec()
		s.MaxLife = ca.Span(days) * ca.Span(dayLong)
		_, err := h.SetProfile(t.Context(), platformOperator, ca.ProfileChange{Scope: identity.Platform, Name: "server", Spec: s, After: 1})
		return err
	}
	var won, lost atomic.Int32
	var both sync.WaitGroup
	for i := range 4 {
		both.Go(func() {
			switch err := change(40 + i); {
			case err == nil:
				won.Add(1)
			case errors.Is(err, ca.ErrConflict):
				lost.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	both.Wait()
	if won.Load() != 1 || lost.Load() != 3 {
		t.Errorf("%d changed it, %d were told", won.Load(), lost.Load())
	}
}

func TestWithoutItsProfilesNothingIsOpened(t *testing.T) {
	h := pkitest.New(t)
	ctx := t.Context()
	for _, sql := range []string{`DELETE FROM profile`, `UPDATE profile SET spec = '{}'`, `TRUNCATE profile`} {
		if _, err := h.DB.Exec(ctx, sql); err == nil {
			t.Errorf("%s was let through", sql)
		}
	}

	// A row that this program does not understand shuts that profile, and no other.
	_, err := h.DB.Exec(ctx, `
		INSERT INTO profile (revision, scope, name, spec, made_at, actor)
		SELECT 6, NULL, 'server', spec || '{"only_on_sundays": true}', now(), 'a later program'
		FROM   profile
		WHERE  revision = 1`)
	must(t, err)
	must(t, h.Reload(ctx))
	ask := ca.Request{Scope: pkitest.Demo, Profile: "server", CSR: pkitest.CSR(t, pkitest.Key(t), "dns:a.demo.test")}
	if _, err := h.Issue(ctx, demo, ask); !errors.Is(err, ca.ErrUnavailable) {
		t.Errorf("by rules that nobody understands: %v", err)
	}
	if shut := h.Shut(); len(shut) != 1 || !strings.Contains(shut[0].Error(), "only_on_sundays") {
		t.Errorf("shut: %v", shut)
	}
	ask.Profile = "database-server"
	if _, err := h.Issue(ctx, demo, ask); err != nil {
		t.Errorf("another profile: %v", err)
	}

	// A row that is gone opens nothing, to nobody.
	for _, sql := range []string{`ALTER TABLE profile DISABLE TRIGGER profile_stays`, `DELETE FROM profile WHERE revision = 2`} {
		_, err := h.DB.Exec(ctx, sql)
		must(t, err)
	}
	if err := h.Found(ctx, h.Keyring); err == nil || !strings.Contains(err.Error(), "revision 2 is not there") {
		t.Errorf("with a revision gone: %v", err)
	}
	_, err = h.DB.Exec(ctx, `DELETE FROM profile`)
	must(t, err)
	if err := h.Found(ctx, h.Keyring); err == nil {
		t.Error("it opened without a profile")
	}
}

func TestAPreviewSaysWhoWouldNotBeRenewed(t *testing.T) {
	h := pkitest.New(t)
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	must(t, err)
	first := server(t, h, "a.demo.test")
	server(t, h, "b.demo.test", func(r *ca.Request) { r.CSR = pkitest.CSR(t, p384, "dns:b.demo.test") })
	gone := server(t, h, "c.demo.test")
	_, err = h.Revoke(t.Context(), demo, gone.Serial, 0)
	must(t, err)
	s := serverSpec()
	s.Keys, s.Life, s.MaxLife = []string{"p384"}, ca.Span(dayLong), ca.Span(dayLong)
	change := ca.ProfileChange{Scope: identity.Platform, Name: "server", Spec: s, After: -1}
	v, err := h.PreviewProfile(t.Context(), platformOperator, change)
	must(t, err)
	if v.Live != 2 || v.Refused != 1 || v.Shorter != 1 || !v.All || len(v.First) != 1 || v.First[0].Serial != first.Serial || v.First[0].Rule != "profile server" {
		t.Errorf("%+v", v)
	}
	if p, err := h.Profile(identity.Platform, "server"); err != nil || p.Revision != 1 {
		t.Errorf("a preview changed something: %+v, %v", p, err)
	}
	_, err = h.PreviewProfile(t.Context(), demo, change)
	refusal(t, "a workload's preview", err)
	change.Spec.Keys = []string{}
	_, err = h.PreviewProfile(t.Context(), platformOperator, change)
	refusal(t, "a preview of what would be refused", err)
}
