package ca_test

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"maps"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/ca/proof"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/oidc/oidctest"
	"codeberg.org/dataverket/segl/internal/pkitest"
	"codeberg.org/dataverket/segl/internal/policy"
	"codeberg.org/dataverket/segl/internal/postgres"
)

// A hall is a house with a method of each kind, and what its proofs are made with.
type hall struct {
	*pkitest.House
	t        *testing.T
	provider *oidctest.Provider
	root     *x509.Certificate
	rootKey  crypto.Signer
	cluster  *httptest.Server
	know     sync.Map // tokens that the cluster vouches for
	judge    *proof.Judge
}

func newHall(t *testing.T) *hall {
	t.Helper()
	h := &hall{House: pkitest.New(t), t: t, provider: oidctest.New(t)}
	h.rootKey = pkitest.Key(t)
	h.root = h.certify("root", h.rootKey, true)
	h.cluster = httptest.NewServer(http.HandlerFunc(h.review))
	t.Cleanup(h.cluster.Close)
	file := filepath.Join(t.TempDir(), "token")
	must(t, os.WriteFile(file, []byte("reviewer\n"), 0o600))
	h.judge = proof.New(proof.Config{
		Now: h.Now, Client: &http.Client{Timeout: 5 * time.Second},
		Clusters: map[string]proof.Cluster{"north": {URL: h.cluster.URL, TokenFile: file, Client: &http.Client{Timeout: 5 * time.Second}}},
	})
	t.Cleanup(h.judge.Close)
	h.Methods, h.Judge = h.Ledger, h.judge
	for _, m := range h.methods() {
		_, err := h.AddMethod(t.Context(), identity.System("test"), m)
		must(t, err)
	}
	return h
}

const account = "system:serviceaccount:shop:billing"

func (h *hall) methods() []ca.Method {
	roots := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: h.root.Raw})
	return []ca.Method{
		{Scope: pkitest.Demo, Name: "ci", Kind: ca.OIDC, Subject: "repo:demo/*", Issuer: h.provider.URL, Claims: map[string]string{"env": "dev"}, Workload: "deployer", Names: []cert.Name{name(h.t, "dns:ci.demo.test")}},
		{Scope: pkitest.Demo, Name: "pods", Kind: ca.Kubernetes, Subject: "system:serviceaccount:shop:*", Issuer: "https://kubernetes.default.svc", Keys: h.provider.Keys(h.t)},
		{Scope: pkitest.Demo, Name: "asked", Kind: ca.Kubernetes, Subject: account, Cluster: "north"},
		{Scope: pkitest.Demo, Name: "builder", Kind: ca.JWK, Subject: "*", Issuer: "builder", Keys: h.provider.Keys(h.t)},
		{Scope: pkitest.Demo, Name: "hosts", Kind: ca.X5C, Subject: "*", Issuer: "hosts", Roots: roots},
	}
}

// certify returns a certificate of the house's own test root, or that root.
func (h *hall) certify(cn string, key crypto.Signer, isCA bool) *x509.Certificate {
	h.t.Helper()
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: cn}, NotBefore: h.Now().Add(-time.Hour), NotAfter: h.Now().Add(24 * time.Hour),
		IsCA: isCA, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	parent, signer := h.root, h.rootKey
	if isCA {
		parent, signer = tmpl, key
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, key.Public(), signer)
	must(h.t, err)
	c, err := x509.ParseCertificate(der)
	must(h.t, err)
	return c
}

// review is an API server that knows some tokens.
func (h *hall) review(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Spec struct {
			Token     string
			Audiences []string
		}
	}
	if r.Header.Get("Authorization") != "Bearer reviewer" || json.NewDecoder(r.Body).Decode(&in) != nil {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	who, ok := h.know.Load(in.Spec.Token)
	user, _ := who.(string)
	w.WriteHeader(http.StatusCreated)
	json.NewEncoder(w).Encode(map[string]any{"status": map[string]any{"authenticated": ok, "user": map[string]any{"username": user}, "audiences": in.Spec.Audiences}}) //nolint:errcheck // the client has gone
}

// proof returns a good one for a method, but for change: nil takes a claim out.
func (h *hall) proof(method string, change map[string]any) string {
	h.t.Helper()
	now := h.Now().Unix()
	c := map[string]any{"aud": "segl:segl.test:demo/shop/dev:" + method, "iat": now, "exp": now + 600, "jti": rand.Text()}
	switch method {
	case "ci":
		c["iss"], c["sub"], c["env"] = h.provider.URL, "repo:demo/shop", "dev"
	case "pods", "asked":
		c["iss"], c["sub"] = "https://kubernetes.default.svc", account
	default:
		c["iss"], c["sub"] = method, "machine-1"
	}
	maps.Copy(c, change)
	maps.DeleteFunc(c, func(_ string, v any) bool { return v == nil })
	var token string
	if method == "hosts" {
		token = h.byCertificate(h.certify, "machine-1", c)
	} else {
		token = h.provider.Sign(h.t, c)
	}
	if method == "asked" {
		h.know.Store(token, c["sub"])
	}
	return token
}

func (h *hall) byCertificate(certify func(string, crypto.Signer, bool) *x509.Certificate, cn string, claims map[string]any) string {
	key := pkitest.Key(h.t)
	leaf := certify(cn, key, false)
	return oidctest.SignWithHeader(h.t, jose.JSONWebKey{Key: key, KeyID: "k", Algorithm: "ES256"}, claims, map[jose.HeaderKey]any{"x5c": [][]byte{leaf.Raw}})
}

func (h *hall) enrol(method, proof string, names ...string) (ca.Certificate, error) {
	return h.EnrolBy(h.t.Context(), stranger, "demo/shop/dev:"+method, proof, pkitest.CSR(h.t, pkitest.Key(h.t), names...))
}

var kinds = map[string]string{"ci": "deployer", "pods": "billing", "asked": "billing", "builder": "machine-1", "hosts": "machine-1"}

func TestEachKindOfProofLetsItsSubjectInOnce(t *testing.T) {
	h := newHall(t)
	for method, workload := range kinds {
		t.Run(method, func(t *testing.T) {
			key, proof := pkitest.Key(t), h.proof(method, nil)
			first, err := h.EnrolBy(t.Context(), stranger, "demo/shop/dev:"+method, proof, pkitest.CSR(t, key))
			if err != nil || first.Identity().Workload() != workload || first.Scope != pkitest.Demo || first.Profile != "workload" {
				t.Fatalf("%s, %v", first.Identity(), err)
			}
			again, err := h.EnrolBy(t.Context(), stranger, "demo/shop/dev:"+method, proof, pkitest.CSR(t, key))
			if err != nil || again.Serial != first.Serial {
				t.Fatalf("the same key again: %s, %v; want %s", again.Serial, err, first.Serial)
			}
			if _, err := h.enrol(method, proof); !errors.Is(err, ca.ErrTokenUsed) {
				t.Errorf("replayed with another key: %v", err)
			}
			// Another statement under the same name is the same proof.
			if _, err := h.enrol(method, h.proof(method, map[string]any{"jti": "twice"})); err != nil {
				t.Fatal(err)
			}
			if _, err := h.enrol(method, h.proof(method, map[string]any{"jti": "twice", "exp": h.Now().Unix() + 601})); !errors.Is(err, ca.ErrTokenUsed) {
				t.Errorf("another proof of the same jti: %v", err)
			}
			var facts int
			must(t, h.DB.QueryRow(t.Context(), `
				SELECT count(*)
				FROM   fact
				WHERE  allowed AND (serial = $1 AND what IN ('enrolment.use', 'certificate.issue') OR what = 'enrolment.make' AND subject LIKE '%proved as%' AND actor = $2 AND at > now() - interval '1 hour')`,
				first.Serial.Bytes(), "enrolment:demo/shop/dev:"+method).Scan(&facts))
			if facts != 4 {
				t.Errorf("%d facts, want of two uses' proofs, and of the certificate and the use", facts)
			}
		})
	}
}

// Two replicas that get one proof at the same moment, with two keys, let one of them in.
func TestAProofIsSpentOnceAcrossReplicas(t *testing.T) {
	h := newHall(t)
	other := pkitest.On(t, h.DB)
	other.Methods, other.Judge = other.Ledger, h.judge
	for range 5 {
		proof := h.proof("builder", nil)
		var wg sync.WaitGroup
		results := make(chan error, 8)
		for i := range 8 {
			c := h.CA
			if i%2 == 1 {
				c = other.CA
			}
			csr := pkitest.CSR(t, pkitest.Key(t))
			wg.Go(func() {
				_, err := c.EnrolBy(t.Context(), stranger, "demo/shop/dev:builder", proof, csr)
				results <- err
			})
		}
		wg.Wait()
		close(results)
		in := 0
		for err := range results {
			if err == nil {
				in++
			} else if !errors.Is(err, ca.ErrTokenUsed) && !errors.Is(err, ca.ErrInProgress) {
				t.Error(err)
			}
		}
		if in != 1 {
			t.Errorf("%d were let in", in)
		}
	}
}

func TestProofsAreRefused(t *testing.T) {
	h := newHall(t)
	now := h.Now().Unix()
	for method := range kinds {
		for what, change := range map[string]map[string]any{
			"another issuer": {"iss": "https://evil.test"}, "another audience": {"aud": "segl"}, "no audience": {"aud": nil}, "expired": {"iat": now - 60, "exp": now - 1},
			"without iat": {"iat": nil}, "without exp": {"exp": nil}, "without sub": {"sub": nil}, "from the future": {"iat": now + 3600, "exp": now + 4000},
			"of yesterday": {"iat": now - 90_000, "exp": now + 600}, "bound to a key": {"cnf": "x"}, "an ID token": {"nonce": "x"},
			"about a path": {"sub": "system:serviceaccount:shop:../x"}, "about a pattern": {"sub": "system:serviceaccount:shop:%"}, "about another": {"sub": "system:serviceaccount:bank:billing"},
		} {
			if method == "asked" && (what == "another issuer" || what == "another audience" || what == "no audience" || what == "bound to a key" || what == "an ID token") {
				continue // the cluster judges these, by what it was asked
			}
			_, err := h.enrol(method, h.proof(method, change))
			if _, ok := errors.AsType[*policy.Refusal](err); !ok {
				t.Errorf("%s, %s: %v", method, what, err)
			}
		}
	}
	for what, c := range map[string]struct {
		method, proof string
		names         []string
	}{
		"a claim that differs":               {"ci", h.proof("ci", map[string]any{"env": "prod"}), nil},
		"a claim that lacks":                 {"ci", h.proof("ci", map[string]any{"env": nil}), nil},
		"a host name beyond the method's":    {"ci", h.proof("ci", nil), []string{"dns:a.demo.test"}},
		"a proof good for a month":           {"builder", h.proof("builder", map[string]any{"exp": now + 30*86400}), nil},
		"what the cluster does not know":     {"asked", h.provider.Sign(t, map[string]any{"iss": "x", "sub": account, "iat": now, "exp": now + 600}), nil},
		"about another than its certificate": {"hosts", h.byCertificate(h.certify, "machine-2", map[string]any{"iss": "hosts", "sub": "machine-1", "aud": "segl:segl.test:demo/shop/dev:hosts", "iat": now, "exp": now + 60}), nil},
		"a certificate of nobody":            {"hosts", h.provider.Sign(t, map[string]any{"iss": "hosts", "sub": "machine-1", "aud": "segl:segl.test:demo/shop/dev:hosts", "iat": now, "exp": now + 60}), nil},
		"a million dots":                     {"ci", strings.Repeat(".", 1_000_000), nil},
		"nothing":                            {"ci", "", nil},
		"a method of another scope":          {"../demo:ci", h.proof("ci", nil), nil},
		"an unknown method":                  {"other", h.proof("ci", nil), nil},
	} {
		_, err := h.enrol(c.method, c.proof, c.names...)
		if _, ok := errors.AsType[*policy.Refusal](err); !ok {
			t.Errorf("%s: %v", what, err)
		}
		if err != nil && len(c.proof) > 20 && strings.Contains(err.Error(), c.proof[:20]) {
			t.Errorf("%s: the refusal repeats the proof", what)
		}
	}
}

// Every authenticator is presented wherever it does not belong.
func TestAProofIsGoodForItsOwnMethodAlone(t *testing.T) {
	h := newHall(t)
	token := invite(t, h.House, ca.Invitation{Scope: pkitest.Demo, Workload: "web"})
	for method := range kinds {
		for other := range kinds {
			if other != method {
				if _, err := h.enrol(other, h.proof(method, nil)); err == nil {
					t.Errorf("a proof for %s let in by %s", method, other)
				}
			}
		}
		if _, err := h.enrol(method, token); err == nil {
			t.Errorf("a one-time token let in by %s", method)
		}
		if _, err := h.Enrol(t.Context(), stranger, h.proof(method, nil), pkitest.CSR(t, pkitest.Key(t))); err == nil {
			t.Errorf("a proof for %s passed for a one-time token", method)
		}
	}
	if _, err := h.Enrol(t.Context(), stranger, token, pkitest.CSR(t, pkitest.Key(t))); err != nil {
		t.Errorf("after all of that: %v", err)
	}
}

func TestAnEndedMethodLetsNobodyIn(t *testing.T) {
	h := newHall(t)
	proof := h.proof("builder", nil)
	_, err := h.EndMethod(t.Context(), demo, pkitest.Demo, "builder")
	if _, ok := errors.AsType[*policy.Refusal](err); !ok {
		t.Fatalf("ended by a workload: %v", err)
	}
	_, err = h.EndMethod(t.Context(), identity.System("test"), pkitest.Demo, "builder")
	must(t, err)
	if _, err := h.enrol("builder", proof); err == nil {
		t.Error("let in by an ended method")
	}
	if _, err := h.EndMethod(t.Context(), identity.System("test"), pkitest.Demo, "builder"); !errors.Is(err, ca.ErrNotFound) {
		t.Errorf("ended twice: %v", err)
	}
	// Its name is free, and what was proved to the old one is no proof to the new one's history.
	made, err := h.AddMethod(t.Context(), identity.System("test"), h.methods()[3])
	must(t, err)
	list, err := h.MethodsIn(t.Context(), identity.System("test"), pkitest.Scope("demo"), 0, 100)
	if err != nil || len(list) != 6 || list[0].ID != made.ID || list[2].EndedAt.IsZero() {
		t.Errorf("%d methods, %v", len(list), err)
	}
	if _, err := h.MethodsIn(t.Context(), demo, pkitest.Scope("demo"), 0, 100); !errors.Is(err, ca.ErrNotFound) {
		t.Errorf("listed above the caller's scope: %v", err)
	}
}

func TestAnIssuerThatIsAwayIsNoRefusal(t *testing.T) {
	h := newHall(t)
	proof, asked := h.proof("ci", nil), h.proof("asked", nil)
	h.provider.Away(true)
	h.cluster.Close()
	for method, p := range map[string]string{"ci": proof, "asked": asked} {
		if _, err := h.enrol(method, p); !errors.Is(err, ca.ErrUnavailable) {
			t.Errorf("%s: %v", method, err)
		}
	}
}

func TestMethodsAreRefused(t *testing.T) {
	h := newHall(t)
	good := h.methods()
	ours := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: h.Authorities()[0].Certificate.Raw})
	for what, c := range map[string]struct {
		who    identity.Caller
		from   int
		change func(*ca.Method)
	}{
		"by a workload":                    {demo, 0, func(*ca.Method) {}},
		"by nobody":                        {stranger, 0, func(*ca.Method) {}},
		"of another kind":                  {identity.System("t"), 0, func(m *ca.Method) { m.Kind = "saml" }},
		"without a kind":                   {identity.System("t"), 0, func(m *ca.Method) { m.Kind = "" }},
		"a name with a colon":              {identity.System("t"), 0, func(m *ca.Method) { m.Name = "a:b" }},
		"without a subject":                {identity.System("t"), 0, func(m *ca.Method) { m.Subject = "" }},
		"a subject with a * within":        {identity.System("t"), 0, func(m *ca.Method) { m.Subject = "a*b" }},
		"for everybody":                    {identity.System("t"), 0, func(m *ca.Method) { m.Subject, m.Claims = "*", nil }},
		"for every namespace":              {identity.System("t"), 1, func(m *ca.Method) { m.Subject = "system:serviceaccount:*" }},
		"names for whoever comes":          {identity.System("t"), 1, func(m *ca.Method) { m.Names = good[0].Names }},
		"a name beyond the scope's rights": {identity.System("t"), 0, func(m *ca.Method) { m.Names = []cert.Name{name(t, "dns:evil.test")} }},
		"a server's profile":               {identity.System("t"), 0, func(m *ca.Method) { m.Profile = "server" }},
		"a workload that is none":          {identity.System("t"), 0, func(m *ca.Method) { m.Workload = "a/b" }},
		"a plain issuer":                   {identity.System("t"), 0, func(m *ca.Method) { m.Issuer = "http://login.test" }},
		"an OpenID provider with keys":     {identity.System("t"), 0, func(m *ca.Method) { m.Keys = good[1].Keys }},
		"keys that are secret":             {identity.System("t"), 3, func(m *ca.Method) { m.Keys = []byte(`{"keys":[{"kty":"oct","k":"AAAA","kid":"a"}]}`) }},
		"no keys":                          {identity.System("t"), 3, func(m *ca.Method) { m.Keys = nil }},
		"an unknown cluster":               {identity.System("t"), 2, func(m *ca.Method) { m.Cluster = "south" }},
		"roots that are none":              {identity.System("t"), 4, func(m *ca.Method) { m.Roots = []byte("x") }},
		"our own root":                     {identity.System("t"), 4, func(m *ca.Method) { m.Roots = ours }},
	} {
		m := good[c.from]
		m.Name = "another"
		c.change(&m)
		_, err := h.AddMethod(t.Context(), c.who, m)
		if _, ok := errors.AsType[*policy.Refusal](err); !ok {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := h.AddMethod(t.Context(), identity.System("t"), good[0]); !errors.Is(err, ca.ErrConflict) {
		t.Errorf("the same name again: %v", err)
	}
	if _, err := h.DB.Exec(t.Context(), `UPDATE enrolment_method SET kind = 'saml'`); err == nil || postgres.Unavailable(err) {
		t.Error("the database takes a kind that nobody judges")
	}
}

// A proof that was written down is a one-time token's row, and what it was named by is no secret.
func TestNobodyMakesATokenOfTheNameOfAProof(t *testing.T) {
	h := newHall(t)
	id := strings.Repeat("j", 28) // with the word before it as long as a token's secret
	if _, err := h.enrol("builder", h.proof("builder", map[string]any{"jti": id}), "dns:evil.test"); err == nil {
		t.Fatal("a name that the method does not give")
	}
	var row []byte
	must(t, h.DB.QueryRow(t.Context(), `SELECT token FROM enrolment`).Scan(&row))
	token := "segl_enrol_" + hex.EncodeToString(row) + "_" + base64.RawURLEncoding.EncodeToString([]byte("jti\x00"+id))
	if _, _, ok := ca.SplitToken(token); !ok {
		t.Fatalf("%s is no token", token)
	}
	_, err := h.Enrol(t.Context(), stranger, token, pkitest.CSR(t, pkitest.Key(t)))
	refusedBy(t, h.House, "a token made of a jti", err, "one-time enrolment", nil)
}
