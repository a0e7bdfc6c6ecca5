// Package proof judges what people and programs prove themselves with before they have a certificate: signed statements (JWT,
// RFC 7519) of an OpenID provider, of a Kubernetes cluster about a service account, by a registered key, or by a certificate
// below a registered root (RFC 7515 §4.1.6).
//
// All of them end in one check: signature, issuer, audience and times, by internal/oidc. They differ in where the key comes from.
// Whom a good proof lets in, and that it does so once, is decided by ca.
//
// A Judge may be used concurrently. It asks issuers and clusters under deadlines, follows no redirect, and keeps no proof.
package proof

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/internal/oidc"
)

// Config is what a Judge is made of.
type Config struct {
	Client   *http.Client       // asks issuers
	Clusters map[string]Cluster // whose API servers may be asked about tokens, by name
	Now      func() time.Time
}

// A Judge implements ca.Judge.
type Judge struct {
	cfg Config

	mu    sync.Mutex // guards below
	known map[int64]*oidc.Provider
}

// New returns a Judge that has asked nobody yet.
func New(cfg Config) *Judge { return &Judge{cfg: cfg, known: make(map[int64]*oidc.Provider)} }

// Close ends what it may be asking.
func (j *Judge) Close() {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, p := range j.known {
		p.Close()
	}
	clear(j.known)
}

// mostKnown bounds how many issuers' keys are kept.
const mostKnown = 1000

// Check implements ca.Judge.
func (j *Judge) Check(m ca.Method) error {
	switch {
	case m.Kind == ca.X5C:
		if roots, err := anchors(m.Roots); err != nil || roots == nil {
			return errors.New("x5c wants root certificates in PEM")
		}
		if m.Issuer == "" {
			return errors.New("x5c wants what its proofs call their issuer (iss)")
		}
		return nil
	case m.Kind == ca.JWK && len(m.Keys) == 0:
		return errors.New("jwk wants public keys, a JWK set")
	case m.Kind == ca.OIDC && len(m.Keys) > 0:
		return errors.New("the keys of an OpenID provider are read at its issuer: use jwk for registered ones")
	case len(m.Roots) > 0 || m.Cluster != "" && m.Kind != ca.Kubernetes:
		return fmt.Errorf("roots are for x5c and a cluster is for kubernetes, not for %s", m.Kind)
	case m.Cluster != "":
		if _, ok := j.cfg.Clusters[m.Cluster]; !ok {
			return fmt.Errorf("no cluster %.60q is configured", m.Cluster)
		}
		if len(m.Keys) > 0 || m.Issuer != "" {
			return errors.New("a cluster that is asked needs neither issuer nor keys")
		}
		return nil
	}
	p, err := j.provider(m)
	if err != nil {
		return err
	}
	p.Close()
	return nil
}

func (j *Judge) provider(m ca.Method) (*oidc.Provider, error) {
	cfg := oidc.Config{Issuer: m.Issuer, Audience: m.Audience, Keys: m.Keys, Now: j.cfg.Now}
	if len(m.Keys) == 0 {
		cfg.Client = j.cfg.Client
	}
	return oidc.New(cfg)
}

// Prove implements ca.Judge.
func (j *Judge) Prove(ctx context.Context, m ca.Method, text string) (ca.Proved, error) {
	var b oidc.Bearer
	var err error
	switch {
	case strings.Count(text, ".") != 2: // before anything is allocated for it
		return ca.Proved{}, fmt.Errorf("%w: it is no JWT (RFC 7519 §3)", ca.ErrProof)
	case m.Kind == ca.X5C:
		b, err = j.byCertificate(ctx, m, text)
	case m.Cluster != "":
		return j.byReview(ctx, m, text)
	default:
		b, err = j.byIssuer(ctx, m, text)
	}
	switch {
	case errors.Is(err, oidc.ErrToken):
		return ca.Proved{}, fmt.Errorf("%w: %w", ca.ErrProof, err)
	case err != nil:
		return ca.Proved{}, err
	case b.Kind != oidc.None:
		return ca.Proved{}, fmt.Errorf("%w: it is %s, which proves something else", ca.ErrProof, b.Kind)
	}
	return ca.Proved{Subject: b.Subject, Once: once(b.ID, text), Issued: b.Issued, Expires: b.Expires, Claims: b.Claims}, nil
}

// byIssuer judges by keys that the issuer publishes, or that were registered.
func (j *Judge) byIssuer(ctx context.Context, m ca.Method, text string) (oidc.Bearer, error) {
	j.mu.Lock()
	p := j.known[m.ID]
	if p == nil {
		var err error
		if p, err = j.provider(m); err != nil {
			j.mu.Unlock()
			return oidc.Bearer{}, err
		}
		if len(j.known) >= mostKnown { // of ended methods, as a rule; their readings end by themselves
			clear(j.known)
		}
		j.known[m.ID] = p
	}
	j.mu.Unlock()
	return p.Verify(ctx, text)
}

// algorithms are those that a certificate's key may sign a proof with.
var algorithms = []jose.SignatureAlgorithm{jose.ES256, jose.ES384, jose.EdDSA, jose.PS256, jose.RS256}

// byCertificate judges by the key of a certificate that the proof brings along, below a registered root.
func (j *Judge) byCertificate(ctx context.Context, m ca.Method, text string) (oidc.Bearer, error) {
	refuse := func(why string) (oidc.Bearer, error) { return oidc.Bearer{}, fmt.Errorf("%w: %s", oidc.ErrToken, why) }
	roots, err := anchors(m.Roots)
	if err != nil {
		return oidc.Bearer{}, err
	}
	const most = 64 << 10
	if len(text) > most {
		return refuse("it is too long")
	}
	signed, err := jose.ParseSigned(text, algorithms)
	if err != nil || len(signed.Signatures) != 1 {
		return refuse("it is malformed")
	}
	h := signed.Signatures[0].Protected
	chains, err := h.Certificates(x509.VerifyOptions{Roots: roots, CurrentTime: j.cfg.Now(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	if err != nil || len(chains) == 0 || len(chains[0]) == 0 {
		return refuse("the certificates it brings (x5c, RFC 7515 §4.1.6) do not lead to a registered root")
	}
	leaf := chains[0][0]
	if leaf.IsCA || leaf.KeyUsage != 0 && leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0 { // RFC 5280 §4.2.1.3
		return refuse("its certificate is not for signing")
	}
	keys, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: leaf.PublicKey, KeyID: h.KeyID, Algorithm: h.Algorithm, Use: "sig"}}})
	if err != nil {
		return refuse("its certificate has a key of another kind")
	}
	p, err := oidc.New(oidc.Config{Issuer: m.Issuer, Audience: m.Audience, Keys: keys, Now: j.cfg.Now})
	if err != nil {
		return refuse("its certificate has a key of another kind")
	}
	defer p.Close()
	b, err := p.Verify(ctx, text)
	if err != nil {
		return b, err
	}
	// Who holds a certificate may speak for whom it names, and for nobody else.
	names := append([]string{leaf.Subject.CommonName}, leaf.DNSNames...)
	for _, u := range leaf.URIs {
		names = append(names, u.String())
	}
	if !slices.Contains(names, b.Subject) {
		return refuse("it is about another than its certificate")
	}
	return b, nil
}

// anchors reads roots.
func anchors(text []byte) (*x509.CertPool, error) {
	var pool *x509.CertPool
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			return pool, nil
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil || block.Type != "CERTIFICATE" {
			return nil, errors.New("reading roots: want certificates in PEM and nothing else")
		}
		if pool == nil {
			pool = x509.NewCertPool()
		}
		pool.AddCert(c)
	}
}

// once names a proof: by the name that it gives itself (jti), else by what it says. Its signature is no part of that: some can be
// spelt in two ways.
func once(id, text string) [32]byte {
	if id != "" {
		return sha256.Sum256([]byte("jti\x00" + id))
	}
	_, rest, _ := strings.Cut(text, ".")
	payload, _, _ := strings.Cut(rest, ".")
	said, err := base64.RawURLEncoding.DecodeString(payload)
	if err != nil {
		said = []byte(payload)
	}
	return sha256.Sum256(append([]byte("said\x00"), said...))
}
