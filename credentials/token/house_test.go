package token_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"errors"
	"maps"
	"math/big"
	"net/url"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"codeberg.org/dataverket/segl/credentials"
	"codeberg.org/dataverket/segl/credentials/token"
	"codeberg.org/dataverket/segl/credentials/token/verify"
	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/kms/kmstest"
)

const (
	issuer  = "https://segl.test:8443"
	orders  = "https://orders.test"
	billing = "https://billing.test"
)

var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// A house is a server with everything around it in memory.
type house struct {
	*token.Server
	cfg token.Config

	mu        sync.Mutex // guards below
	at        time.Time
	keys      []token.KeyRow
	facts     []audit.Fact
	refusals  []string
	ends      []token.End
	mass      time.Time
	spent     map[string]bool
	down      error
	revoked   map[cert.Serial]bool
	asked     int // how often the ledger was asked whether a certificate stands
	suspended map[identity.Scope]bool
	bindings  []credentials.Binding
	ended     []int64
	subjects  map[string]token.Subject
	holders   map[string]identity.Caller // by the certificate's octets
}

func open(t *testing.T, change func(*token.Config)) *house {
	t.Helper()
	h := &house{
		at: noon, spent: map[string]bool{}, revoked: map[cert.Serial]bool{}, suspended: map[identity.Scope]bool{}, subjects: map[string]token.Subject{},
		holders: map[string]identity.Caller{},
	}
	h.cfg = token.Config{
		Issuer: issuer, Domain: "segl.test", Store: store{h}, Ledger: ledger{h}, Bindings: bound{h}, Scopes: scopes{h}, Subjects: people{h}, Chains: chains{h},
		Keyring: kmstest.NewKeyring(), Now: h.now,
	}
	if change != nil {
		change(&h.cfg)
	}
	h.bind(t, "spiffe://segl.test/tenant/demo/project/shop/environment/dev/**", time.Hour, []string{orders}, "read", "write")
	h.restart(t)
	return h
}

// restart makes the server anew over what was kept.
func (h *house) restart(t *testing.T) *token.Follower {
	t.Helper()
	s, err := token.New(h.cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Rotate(t.Context()); err != nil {
		t.Fatal(err)
	}
	f, err := s.Catch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	h.Server = s
	return f
}

func (h *house) now() time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.at
}

// pass lets time go by; the follower goes on reading.
func (h *house) pass(t *testing.T, d time.Duration) {
	t.Helper()
	h.mu.Lock()
	h.at = h.at.Add(d)
	h.mu.Unlock()
	h.read(t)
}

// read has what ended known to the server, as its follower would.
func (h *house) read(t *testing.T) {
	t.Helper()
	if _, err := h.Catch(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func (h *house) bind(t *testing.T, pattern string, life time.Duration, audiences []string, words ...string) int64 {
	t.Helper()
	p, err := credentials.ParsePattern(pattern)
	if err != nil {
		t.Fatal(err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	id := int64(len(h.bindings) + 1)
	h.bindings = append(h.bindings, credentials.Binding{ID: id, Name: "b", For: p, Life: life, Audiences: audiences, Scopes: words})
	return id
}

type store struct{ h *house }

func (s store) Keys(context.Context) ([]token.KeyRow, error) {
	s.h.mu.Lock()
	defer s.h.mu.Unlock()
	return slices.Clone(s.h.keys), s.h.down
}

func (s store) AddKey(_ context.Context, k token.KeyRow, f audit.Fact) error {
	s.h.mu.Lock()
	defer s.h.mu.Unlock()
	s.h.keys, s.h.facts = append(s.h.keys, k), append(s.h.facts, f)
	return nil
}

func (s store) RevokeKey(_ context.Context, id string, f audit.Fact) error {
	s.h.mu.Lock()
	defer s.h.mu.Unlock()
	for i := range s.h.keys {
		if s.h.keys[i].ID == id {
			s.h.keys[i].RevokedAt = f.At
			return nil
		}
	}
	return token.ErrNotFound
}

func (s store) Revoke(_ context.Context, f audit.Fact) error {
	s.h.mu.Lock()
	defer s.h.mu.Unlock()
	s.h.facts = append(s.h.facts, f)
	s.h.ends = append(s.h.ends, token.End{At: f.At, Kind: "jti", Value: f.Subject})
	return nil
}

// Ended hands out a page of two, so that pages matter.
func (s store) Ended(_ context.Context, after audit.Position, since time.Time) (token.Endings, error) {
	s.h.mu.Lock()
	defer s.h.mu.Unlock()
	out := token.Endings{Next: after, Floor: s.h.mass}
	for i, e := range s.h.ends {
		if int64(i) < after.ID || e.At.Before(since) {
			continue
		}
		if len(out.List) == 2 {
			out.More = true
			break
		}
		out.List, out.Next = append(out.List, e), audit.Position{Transaction: 1, ID: int64(i + 1)}
	}
	return out, s.h.down
}

func (s store) Spend(_ context.Context, mark string, _ time.Time) (bool, error) {
	s.h.mu.Lock()
	defer s.h.mu.Unlock()
	had := s.h.spent[mark]
	s.h.spent[mark] = true
	return !had, s.h.down
}

func (s store) Sweep(context.Context, time.Time) error { return nil }

type ledger struct{ h *house }

func (l ledger) Vouch(_ context.Context, f audit.Fact, serials ...cert.Serial) error {
	l.h.mu.Lock()
	defer l.h.mu.Unlock()
	for _, s := range serials {
		if l.h.revoked[s] {
			return token.ErrEnded
		}
	}
	if l.h.suspended[f.Scope] {
		return token.ErrSuspended
	}
	if l.h.down == nil {
		l.h.facts = append(l.h.facts, f)
	}
	return l.h.down
}

func (l ledger) Stands(_ context.Context, serial cert.Serial) error {
	l.h.mu.Lock()
	defer l.h.mu.Unlock()
	l.h.asked++
	if l.h.revoked[serial] {
		return token.ErrEnded
	}
	return l.h.down
}

func (l ledger) Refuse(_ context.Context, _ audit.Fact, rule string) error {
	l.h.mu.Lock()
	defer l.h.mu.Unlock()
	l.h.refusals = append(l.h.refusals, rule)
	return nil
}

type bound struct{ h *house }

func (b bound) Tokens(id identity.ID) (out []credentials.Binding) {
	b.h.mu.Lock()
	defer b.h.mu.Unlock()
	for _, v := range b.h.bindings {
		if v.For.Matches(id) && !slices.Contains(b.h.ended, v.ID) {
			out = append(out, v)
		}
	}
	return out
}

func (b bound) Holds(id int64) bool {
	b.h.mu.Lock()
	defer b.h.mu.Unlock()
	return id > 0 && int(id) <= len(b.h.bindings) && !slices.Contains(b.h.ended, id)
}

func (b bound) EndedSince(time.Time) []int64 {
	b.h.mu.Lock()
	defer b.h.mu.Unlock()
	return slices.Clone(b.h.ended)
}

type scopes struct{ h *house }

func (s scopes) Suspended(at identity.Scope) identity.Scope {
	s.h.mu.Lock()
	defer s.h.mu.Unlock()
	for by := range s.h.suspended {
		if by.Contains(at) {
			return by
		}
	}
	return identity.Scope{}
}

func (s scopes) AllSuspended() []identity.Scope {
	s.h.mu.Lock()
	defer s.h.mu.Unlock()
	return slices.Collect(maps.Keys(s.h.suspended))
}

type people struct{ h *house }

func (p people) Subject(_ context.Context, text string) (token.Subject, error) {
	v, ok := p.h.subjects[text]
	if !ok {
		return v, token.ErrSubject
	}
	return v, nil
}

type chains struct{ h *house }

func (c chains) Holder(_ context.Context, chain []*x509.Certificate) (identity.Caller, error) {
	who, ok := c.h.holders[string(chain[0].Raw)]
	if !ok {
		return who, token.ErrEnded
	}
	return who, nil
}

// A workload is a client with its certificate and key.
type workload struct {
	token.Peer
	id   string
	key  *ecdsa.PrivateKey
	made *x509.Certificate
}

func (h *house) workload(t *testing.T, path string, life time.Duration) workload {
	t.Helper()
	id, err := identity.ParseID("spiffe://segl.test" + path)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(id.String())
	if err != nil {
		t.Fatal(err)
	}
	serial := cert.NewSerial(1, h.now())
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: serial.Int(), NotBefore: h.now(), NotAfter: h.now().Add(life), URIs: []*url.URL{u}, Subject: pkix.Name{CommonName: "w"},
	}, &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "a"}}, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	who := identity.Caller{Actor: id.String(), ID: id, Scope: id.Scope(), Serial: serial}
	h.holders[string(der)] = who
	return workload{token.Peer{Who: who, Leaf: leaf}, id.String(), key, leaf}
}

func (h *house) web(t *testing.T) workload {
	t.Helper()
	return h.workload(t, "/tenant/demo/project/shop/environment/dev/web", 24*time.Hour)
}

// form returns parameters, of which those of less are left out.
func form(t *testing.T, values url.Values) token.Form {
	t.Helper()
	f, err := token.ParseForm([]byte(values.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func asking(w workload, more ...string) url.Values {
	v := url.Values{"grant_type": {"client_credentials"}, "client_id": {w.id}}
	for i := 0; i < len(more); i += 2 {
		v.Set(more[i], more[i+1])
	}
	return v
}

func (h *house) issue(t *testing.T, w workload, more ...string) token.Answer {
	t.Helper()
	a, err := h.Issue(t.Context(), w.Peer, form(t, asking(w, more...)), nil)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// published are the keys as others fetch them.
type published struct{ h *house }

func (p published) Key(_ context.Context, id string) (jose.JSONWebKey, error) {
	keys, _ := p.h.Keys()
	b, err := json.Marshal(map[string]any{"keys": keys})
	if err != nil {
		return jose.JSONWebKey{}, err
	}
	set, err := verify.ParseKeys(b)
	if err != nil {
		return jose.JSONWebKey{}, err
	}
	k, ok := set[id]
	if !ok {
		return k, verify.ErrToken
	}
	return k, nil
}

func (h *house) says(t *testing.T, text string) verify.Claims {
	t.Helper()
	c, err := verify.Read(t.Context(), text, published{h})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (h *house) active(t *testing.T, w workload, text string) bool {
	t.Helper()
	i, err := h.Introspect(t.Context(), w.Peer, form(t, url.Values{"token": {text}}))
	if err != nil {
		t.Fatal(err)
	}
	if !i.Active && i.Claims != nil {
		t.Fatal("an inactive token's claims are told")
	}
	return i.Active
}

// code returns the OAuth code of an error, or nothing.
func code(err error) string {
	if e, ok := errors.AsType[*token.Error](err); ok {
		return e.Code
	}
	return ""
}

// jws signs claims with a key, as clients do.
func jws(t *testing.T, key crypto.Signer, header map[jose.HeaderKey]any, embed bool, claims any) string {
	t.Helper()
	opts := &jose.SignerOptions{EmbedJWK: embed, ExtraHeaders: header}
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: key}, opts)
	if err != nil {
		t.Fatal(err)
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := s.Sign(payload)
	if err != nil {
		t.Fatal(err)
	}
	text, err := signed.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func (h *house) proof(t *testing.T, key crypto.Signer, more map[string]any) string {
	t.Helper()
	nonce, err := h.Nonce(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c := map[string]any{"jti": rand.Text(), "htm": "POST", "htu": issuer + "/oauth2/token", "iat": h.now().Unix(), "nonce": nonce}
	maps.Copy(c, more)
	return jws(t, key, map[jose.HeaderKey]any{"typ": "dpop+jwt"}, true, c)
}

func (w workload) assertion(t *testing.T, h *house, more map[string]any) string {
	t.Helper()
	c := map[string]any{"iss": w.id, "sub": w.id, "aud": issuer, "jti": rand.Text(), "exp": h.now().Add(time.Minute).Unix()}
	maps.Copy(c, more)
	return jws(t, w.key, map[jose.HeaderKey]any{"x5c": []string{base64.StdEncoding.EncodeToString(w.made.Raw)}}, false, c)
}
