package ca_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/ca/ceremony"
	"codeberg.org/dataverket/segl/ca/lint"
	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/pkitest"
	"codeberg.org/dataverket/segl/kms"
	"codeberg.org/dataverket/segl/kms/kmstest"
)

// verified verifies a certificate against roots, with what it came with.
func verified(t *testing.T, h *pkitest.House, c ca.Certificate, above [][]byte, roots ...*x509.Certificate) error {
	t.Helper()
	leaf, err := x509.ParseCertificate(c.DER)
	must(t, err)
	pool, between := x509.NewCertPool(), x509.NewCertPool()
	for _, r := range roots {
		pool.AddCert(r)
	}
	for _, der := range above {
		x, err := x509.ParseCertificate(der)
		must(t, err)
		between.AddCert(x)
	}
	_, err = leaf.Verify(x509.VerifyOptions{Roots: pool, Intermediates: between, CurrentTime: h.Now(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	return err
}

// Every kind of key signs for every purpose, certifies every kind, and its lists and answers verify as its certificates do.
func TestEveryKindOfKeySignsAndIsCertified(t *testing.T) {
	h := pkitest.New(t)
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	big, err := rsa.GenerateKey(rand.Reader, 3072)
	must(t, err)
	p384, err := kms.P384.Generate()
	must(t, err)
	for _, alg := range []kms.Algorithm{kms.P384, kms.Ed25519, kms.RSA2048, kms.RSA3072} {
		next, err := h.PrepareFor(t.Context(), platformOperator, ca.Preparation{Purpose: ca.Servers, Algorithm: alg})
		must(t, err)
		if got, err := kms.AlgorithmOf(next.Certificate.PublicKey); err != nil || got != alg {
			t.Fatalf("asked for %s, got %s, %v", alg, got, err)
		}
		h.Advance(2 * time.Second)
		_, err = h.Activate(t.Context(), platformOperator, next.Name, time.Hour)
		must(t, err)
		for _, key := range []any{pkitest.Key(t), p384, ed, big} {
			c, err := h.Issue(t.Context(), demo, ca.Request{Scope: pkitest.Demo, Profile: "server", CSR: pkitest.CSR(t, key, "dns:a.demo.test")})
			must(t, err)
			if c.Authority != next.Name {
				t.Errorf("%s signs", c.Authority)
			}
			if err := verified(t, h, c, c.Chain, h.Roots()...); err != nil {
				t.Errorf("%s over %T: %v", alg, key, err)
			}
		}
		if _, err := h.EnrolResponder(t.Context(), next.Name, pkitest.Key(t).Public()); err != nil {
			t.Errorf("%s: a responder: %v", alg, err)
		}
	}
	_, err = h.PrepareFor(t.Context(), platformOperator, ca.Preparation{Purpose: ca.Servers, Algorithm: "p521"})
	refusal(t, "a kind of key off the list", err)
}

func TestATenantsAuthorityIsItsOwnAndBounded(t *testing.T) {
	h := pkitest.New(t)
	ctx, tenant := t.Context(), pkitest.Scope("demo")
	bounds := &lint.Permitted{DNS: []string{"demo.test"}, IP: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, URI: []string{pkitest.Domain}}
	for what, ask := range map[string]ca.Preparation{
		"without bounds":    {Purpose: ca.Servers, Scope: tenant},
		"with empty bounds": {Purpose: ca.Servers, Scope: tenant, Permitted: &lint.Permitted{}},
		"of everybody":      {Purpose: ca.Servers, Permitted: bounds},
		"that is a root":    {Purpose: ca.Root, Scope: tenant, Permitted: bounds},
		"of others' domain": {Purpose: ca.Servers, Scope: tenant, Permitted: &lint.Permitted{URI: []string{"other.test"}}},
		"of a wildcard":     {Purpose: ca.Servers, Scope: tenant, Permitted: &lint.Permitted{DNS: []string{"*.demo.test"}}},
		"of half a name":    {Purpose: ca.Servers, Scope: tenant, Permitted: &lint.Permitted{DNS: []string{".test"}}},
	} {
		_, err := h.PrepareFor(ctx, platformOperator, ask)
		refusal(t, "an authority "+what, err)
	}
	own, err := h.PrepareFor(ctx, platformOperator, ca.Preparation{Purpose: ca.Servers, Scope: tenant, Permitted: bounds})
	must(t, err)
	h.Advance(2 * time.Second)
	_, err = h.Activate(ctx, platformOperator, own.Name, 0)
	must(t, err)
	if a := state(t, h, "servers-1-1"); a != ca.Active {
		t.Errorf("everybody's authority is %s because a tenant has its own", a)
	}
	c := server(t, h, "a.demo.test")
	if c.Authority != own.Name {
		t.Errorf("%s signs for the tenant", c.Authority)
	}
	must(t, verified(t, h, c, c.Chain, h.Roots()...))
	// What the tenant may bear and its authority may not certify is refused before a key is touched.
	_, err = h.Issue(ctx, demo, ca.Request{Scope: pkitest.Demo, Profile: "server", CSR: pkitest.CSR(t, pkitest.Key(t), "dns:localhost")})
	refusal(t, "a name outside the constraints", err)
	// Nobody else's certificates come from it.
	platform, err := h.Issue(ctx, platformOperator, ca.Request{Scope: pkitest.Scope("platform"), Profile: "server", CSR: pkitest.CSR(t, pkitest.Key(t), "dns:localhost")})
	must(t, err)
	if platform.Authority != "servers-1-1" {
		t.Errorf("%s signs for the platform", platform.Authority)
	}
}

// An altar is a root's ceremony in memory.
type altar struct {
	ceremony.Room
	root *x509.Certificate
	list []byte
}

func newAltar(t *testing.T, h *pkitest.House, name string) *altar {
	t.Helper()
	key, err := kmstest.NewKeyring().Create(t.Context(), name, kms.P384)
	must(t, err)
	r := &altar{Room: ceremony.Room{Key: key, Script: ceremony.Begin(h.Now, nil, "test"), Now: h.Now}}
	r.root, err = r.Found(t.Context(), pkitest.Domain, name, ceremony.RootLife)
	must(t, err)
	r.list, err = r.List(t.Context(), r.root, nil, nil)
	must(t, err)
	return r
}

func (r *altar) certify(t *testing.T, h *pkitest.House, csr []byte, ask ceremony.Ask) []byte {
	t.Helper()
	ask.Life, ask.PublicURL, ask.RootName = ceremony.AuthorityLife, h.PublicURL, "root-far"
	x, err := r.Certify(t.Context(), r.root, csr, ask)
	must(t, err)
	return x.Raw
}

func TestAnOfflineRootTakesOver(t *testing.T) {
	h := pkitest.New(t)
	h.BreakGlass = emergency(t, []byte("another's")) // that an emergency CA is named keeps nothing out that is no part of it
	ctx, far := t.Context(), newAltar(t, h, "root-far")
	imported := ca.Imported{Purpose: ca.Root, Name: "root-far", Certificate: far.root.Raw, Root: far.root.Raw, List: far.list}

	// 1. What is not a root with its list is not imported.
	for what, spoil := range map[string]func(*ca.Imported){
		"without its list":    func(v *ca.Imported) { v.List = nil },
		"with another's list": func(v *ca.Imported) { v.List = newAltar(t, h, "root-other").list },
		"of nonsense":         func(v *ca.Imported) { v.Certificate = []byte("nonsense") },
		"that is a leaf":      func(v *ca.Imported) { v.Certificate = server(t, h, "a.demo.test").DER },
		"of a wild name":      func(v *ca.Imported) { v.Name = "${root}" },
	} {
		v := imported
		spoil(&v)
		_, err := h.Import(ctx, platformOperator, v)
		refusal(t, "a root "+what, err)
	}
	_, err := h.Import(ctx, demo, imported)
	refusal(t, "a tenant's root", err)

	// 2. Request, sign, import. The root is published before anything hangs on it.
	csr, name, err := h.RequestAuthority(ctx, platformOperator, ca.Preparation{Purpose: ca.Servers, Algorithm: kms.P384})
	must(t, err)
	signed := far.certify(t, h, csr, ceremony.Ask{})
	below := ca.Imported{Purpose: ca.Servers, Name: name, Certificate: signed, Root: far.root.Raw}
	_, err = h.Import(ctx, platformOperator, below)
	refusal(t, "an authority of a root that is not here", err)
	root, err := h.Import(ctx, platformOperator, imported)
	must(t, err)
	if again, err := h.Import(ctx, platformOperator, imported); err != nil || again.ID != root.ID {
		t.Errorf("imported again: %v", err)
	}
	if !root.Offline() || root.State != ca.Prepared || len(h.Roots()) != 2 {
		t.Errorf("%+v, %d roots", root, len(h.Roots()))
	}

	// 3. Nothing comes in that was not requested here, or says more than an issuing authority may.
	stranger, err := kmstest.NewKeyring().Create(ctx, "x", kms.P256)
	must(t, err)
	for what, v := range map[string]ca.Imported{
		"under another name":         {Purpose: ca.Servers, Name: "servers-9", Certificate: signed, Root: far.root.Raw},
		"of a tenant without bounds": {Purpose: ca.Servers, Name: name, Scope: pkitest.Scope("demo"), Certificate: signed, Root: far.root.Raw},
		"of the other root":          {Purpose: ca.Servers, Name: name, Certificate: signed, Root: h.Roots()[0].Raw},
		"that is a root":             {Purpose: ca.Servers, Name: name, Certificate: far.root.Raw, Root: far.root.Raw},
		"of a key elsewhere":         {Purpose: ca.Servers, Name: name, Certificate: far.certify(t, h, foreignCSR(t, stranger, name), ceremony.Ask{}), Root: far.root.Raw},
	} {
		_, err := h.Import(ctx, platformOperator, v)
		refusal(t, "an authority "+what, err)
	}
	next, err := h.Import(ctx, platformOperator, below)
	must(t, err)
	h.Advance(2 * time.Second)
	_, err = h.Activate(ctx, platformOperator, next.Name, time.Hour)
	refusal(t, "signing below a root that was published two seconds ago", err)
	h.Advance(10 * time.Minute)
	_, err = h.Activate(ctx, platformOperator, next.Name, time.Hour)
	must(t, err)
	c := server(t, h, "b.demo.test")
	if err := verified(t, h, c, c.Chain, far.root); err != nil || c.Authority != next.Name {
		t.Errorf("by %s: %v", c.Authority, err)
	}

	// 4. The old root vouches for the new one: who trusts only the old one is offered a chain to it.
	_, err = h.ImportCross(ctx, platformOperator, signed)
	refusal(t, "an authority as a cross-certificate", err)
	old := newAltar(t, h, "root-old")
	cross, err := old.Cross(ctx, old.root, far.root, ceremony.AuthorityLife)
	must(t, err)
	_, err = h.ImportCross(ctx, platformOperator, cross.Raw)
	refusal(t, "a root that is not here vouching", err)
	_, err = h.Import(ctx, platformOperator, ca.Imported{Purpose: ca.Root, Name: "root-old", Certificate: old.root.Raw, Root: old.root.Raw, List: old.list})
	must(t, err)
	_, err = h.ImportCross(ctx, platformOperator, cross.Raw)
	must(t, err)
	c = server(t, h, "c.demo.test")
	chains := c.Chains()
	if len(chains) != 3 || verified(t, h, c, chains[2], old.root) != nil || verified(t, h, c, chains[0], old.root) == nil {
		t.Errorf("%d chains; to the old root alone: %v", len(chains), verified(t, h, c, chains[len(chains)-1], old.root))
	}

	// 5. Its lists only go forward.
	last, err := x509.ParseRevocationList(far.list)
	must(t, err)
	second, err := far.List(ctx, far.root, last, nil)
	must(t, err)
	must(t, h.ImportList(ctx, platformOperator, "root-far", second))
	must(t, h.ImportList(ctx, platformOperator, "root-far", second))
	h.Advance(time.Minute)
	before, err := far.List(ctx, far.root, nil, nil)
	must(t, err)
	if err := h.ImportList(ctx, platformOperator, "root-far", before); !errors.Is(err, ca.ErrConflict) {
		t.Errorf("the list before: %v", err)
	}
	refusal(t, "a list of a root whose key is here", h.ImportList(ctx, platformOperator, "root-1-1", far.list))

	// 6. Active, it is what new authorities hang on, and they cannot be made here.
	h.Advance(time.Hour)
	_, err = h.Activate(ctx, platformOperator, "root-far", 0)
	must(t, err)
	_, err = h.Prepare(ctx, platformOperator, ca.Databases, "")
	refusal(t, "an authority below a root that is elsewhere", err)

	// 7. It stays in the bundle for as long as anything hangs on it, whatever follows it.
	h.Advance(time.Hour)
	_, err = h.Activate(ctx, platformOperator, "root-old", 0)
	must(t, err)
	_, err = h.Retire(ctx, platformOperator, "root-far")
	refusal(t, "retiring a root below which "+next.Name+" signs", err)
	if _, err = h.RevokeAuthority(ctx, platformOperator, next.Name, cert.KeyCompromise); err == nil || strings.Contains(err.Error(), "root "+next.Name) {
		t.Errorf("revoking what an offline root certified: %v", err)
	}
}

// What touches an emergency CA is refused before anything of it is written: else the next start would be refused.
func TestWhatTouchesAnEmergencyCALeavesNoRow(t *testing.T) {
	h := pkitest.New(t)
	ctx, far, old := t.Context(), newAltar(t, h, "root-far"), newAltar(t, h, "root-old")
	of := func(r *altar) ca.Imported {
		return ca.Imported{Purpose: ca.Root, Name: r.Key.Name(), Certificate: r.root.Raw, Root: r.root.Raw, List: r.list}
	}
	h.BreakGlass = emergency(t, far.root.RawSubjectPublicKeyInfo)
	_, err := h.Import(ctx, platformOperator, of(far))
	refusal(t, "an emergency CA as a root", err)
	csr, name, err := h.RequestAuthority(ctx, platformOperator, ca.Preparation{Purpose: ca.Servers})
	must(t, err)
	_, err = h.Import(ctx, platformOperator, ca.Imported{Purpose: ca.Servers, Name: name, Certificate: far.certify(t, h, csr, ceremony.Ask{}), Root: far.root.Raw})
	refusal(t, "an authority below an emergency CA", err)
	cross, err := far.Cross(ctx, far.root, old.root, ceremony.AuthorityLife)
	must(t, err)
	_, err = h.Import(ctx, platformOperator, of(old))
	must(t, err)
	_, err = h.ImportCross(ctx, platformOperator, cross.Raw)
	refusal(t, "an emergency CA vouching for a root", err)

	key, err := h.Keyring.Create(ctx, "made-before", kms.P256)
	must(t, err)
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	must(t, err)
	h.BreakGlass = emergency(t, spki)
	_, err = h.Prepare(ctx, platformOperator, ca.Servers, "made-before")
	refusal(t, "an authority with an emergency CA's key", err)
	_, _, err = h.RequestAuthority(ctx, platformOperator, ca.Preparation{Purpose: ca.Servers, Name: "made-before"})
	refusal(t, "a request with an emergency CA's key", err)
	h.BreakGlass = emergency(t, far.root.RawSubjectPublicKeyInfo)
	must(t, h.Reload(ctx))
}

// An import that was cut short after the root and before its list is finished by asking again.
func TestARootThatWasImportedWithoutItsListGetsIt(t *testing.T) {
	h := pkitest.New(t)
	ctx, far := t.Context(), newAltar(t, h, "root-far")
	row := ca.AuthorityRow{Name: "root-far", Purpose: ca.Root, Site: 1, Certificate: far.root.Raw, CreatedAt: h.Now()}
	must(t, h.Ledger.AddAuthority(ctx, row, audit.Fact{At: h.Now(), Who: platformOperator, Scope: identity.Platform, What: audit.AuthorityMade}))
	for range 2 {
		_, err := h.Import(ctx, platformOperator, ca.Imported{Purpose: ca.Root, Name: "root-far", Certificate: far.root.Raw, Root: far.root.Raw, List: far.list})
		must(t, err)
	}
	var lists int
	must(t, h.DB.QueryRow(ctx, `SELECT count(*) FROM root_list`).Scan(&lists))
	if lists != 1 {
		t.Errorf("%d lists", lists)
	}
	row.Name, row.Scope = "servers-of-nobody", identity.Scope{}
	row.Scope, _ = identity.ParseScope("nobody")
	f := audit.Fact{At: h.Now(), Who: platformOperator, Scope: identity.Platform, What: audit.AuthorityMade, Subject: "of nobody"}
	if err := h.Ledger.AddAuthority(ctx, row, f); !errors.Is(err, ca.ErrNotFound) {
		t.Errorf("an authority of a scope that is not there: %v", err)
	}
	must(t, h.DB.QueryRow(ctx, `SELECT count(*) FROM fact WHERE subject = 'of nobody'`).Scan(&lists))
	if lists != 0 {
		t.Error("what did not happen is a fact")
	}
}

func foreignCSR(t *testing.T, key kms.Key, name string) []byte {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: pkitest.Domain + " " + name}}, kms.Signer(t.Context(), key))
	must(t, err)
	return der
}

func TestASchedulePublishesActivatesAndRetires(t *testing.T) {
	h := pkitest.New(t)
	ctx := t.Context()
	s := ca.Schedule{Every: 30 * dayLong, Publish: dayLong, Spread: time.Hour}
	step := func(d time.Duration) {
		t.Helper()
		h.Advance(d)
		_, err := h.Ledger.MakeEpochs(ctx, h.Now())
		must(t, err)
		must(t, h.Rotate(ctx, s))
	}
	step(20 * dayLong)
	if n := len(h.Authorities()); n != 4 {
		t.Fatalf("%d authorities before it is time", n)
	}
	step(9*dayLong + time.Hour)
	if got := state(t, h, "servers-1-2"); got != ca.Prepared {
		t.Fatalf("a day before, its successor is %s", got)
	}
	step(time.Hour)
	if got := state(t, h, "servers-1-1"); got != ca.Active {
		t.Errorf("before its time it is %s", got)
	}
	live := server(t, h, "a.demo.test")
	step(dayLong)
	if a, b := state(t, h, "servers-1-1"), state(t, h, "servers-1-2"); a != ca.Retiring || b != ca.Active {
		t.Errorf("at its time: %s, %s", a, b)
	}
	step(time.Hour)
	if got := state(t, h, "servers-1-1"); got != ca.Retiring {
		t.Errorf("%s is valid, and its authority is %s", live.Serial, got)
	}
	if got := state(t, h, "databases-1-1"); got != ca.Retired {
		t.Errorf("one that signed nothing is %s", got)
	}
	if got := state(t, h, "root-1-1"); got != ca.Active {
		t.Errorf("the root is %s", got)
	}
	must(t, h.Rotate(ctx, ca.Schedule{}))
}

// Certificates are issued and renewed the whole time while authorities are prepared, activated and retired, on two replicas of which one
// hears of nothing but by its poll. No request is lost.
func TestIssuingAndRenewingGoOnWhileAuthoritiesFollowOneAnother(t *testing.T) {
	h := pkitest.New(t)
	replicas := []*pkitest.House{h, pkitest.On(t, h.DB)}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	var done atomic.Bool
	var made, renewed atomic.Int64
	var load sync.WaitGroup
	for i := range 8 {
		by := replicas[i%2]
		load.Go(func() {
			for !done.Load() {
				key := pkitest.Key(t)
				c, err := by.Issue(ctx, demo, ca.Request{Scope: pkitest.Demo, Profile: "client", CSR: pkitest.CSR(t, key, "uri:"+demo.Actor)})
				if err != nil {
					t.Errorf("issuing: %v", err)
					return
				}
				made.Add(1)
				who := demo
				who.Serial = c.Serial
				again, err := by.Renew(ctx, who, pkitest.CSR(t, pkitest.Key(t)))
				if err != nil {
					t.Errorf("renewing: %v", err)
					return
				}
				renewed.Add(1)
				if err := verified(t, h, again, again.Chain, h.Roots()...); err != nil {
					t.Errorf("by %s: %v", again.Authority, err)
				}
			}
		})
	}
	for range 6 {
		next, err := h.Prepare(ctx, platformOperator, ca.Workloads, "")
		must(t, err)
		_, err = h.Activate(ctx, platformOperator, next.Name, time.Hour)
		must(t, err)
		for n := made.Load(); made.Load() < n+20 && !t.Failed(); {
			must(t, replicas[1].Reload(ctx))
		}
	}
	done.Store(true)
	load.Wait()
	if made.Load() < 100 || renewed.Load() < 100 {
		t.Errorf("%d issued, %d renewed: too few to show anything", made.Load(), renewed.Load())
	}
	seen := bytes.Buffer{}
	for _, a := range h.Authorities() {
		seen.WriteString(a.Name + "=" + string(a.State) + " ")
	}
	t.Logf("%d issued, %d renewed; %s", made.Load(), renewed.Load(), seen.String())
}
