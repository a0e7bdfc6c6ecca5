package api

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"strings"
	"time"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/web"
)

// PublicConfig is what the public door is made of: everything relying parties fetch over plain HTTP. All of it is signed,
// or public.
type PublicConfig struct {
	CA     *ca.CA
	Lists  http.Handler                              // of what was revoked, one a shard: ca/crl
	Bundle func(ctx context.Context) (Bundle, error) // every authority's
	OCSP   http.Handler
	Tokens func() (keys []TokenKey, sequence int64) // that verify JWT-SVIDs; nil: there are none
	Below  web.Table                                // the problems of what the CA stands on
}

// Public returns the door of the public listener.
func Public(p PublicConfig) web.Door {
	get := func(path, id, summary string, h web.Handler) web.Route {
		return web.Route{Method: http.MethodGet, Path: path, ID: id, Summary: summary, Access: web.Anyone, Handler: h}
	}
	return web.Door{Table: p.Below, Routes: []web.Route{
		get("/crl/{authority}/{shard}", "fetchList", "What an authority revoked of one shard (RFC 5280 §5)", web.Plain(p.Lists)),
		get("/crls.pem", "fetchLists", "What every authority revoked, roots included", web.Raw(p.lists)),
		{Method: http.MethodPost, Path: "/ocsp", ID: "askStatus", Summary: "OCSP (RFC 6960 §A.1)", Access: web.Anyone, Handler: web.Plain(p.OCSP)},
		get("/ocsp/{request...}", "getStatus", "OCSP, the request in the path (RFC 6960 §A.1)", web.Plain(p.OCSP)),
		get("/issuers/{file}", "fetchIssuer", "An authority's certificate in DER (RFC 5280 §4.2.2.1)", web.Raw(p.issuer)),
		get("/roots.pem", "fetchRoots", "The roots", web.Raw(p.roots)),
		get("/bundle.json", "fetchBundle", "The roots as a SPIFFE bundle", web.Raw(p.bundle)),
	}}
}

// A Bundle is lists in PEM, as long as they are.
type Bundle interface {
	// Tag changes with every list in it.
	Tag() string
	// Write writes them.
	Write(ctx context.Context, w io.Writer) error
}

func (p *PublicConfig) lists(w http.ResponseWriter, r *http.Request, _ identity.Caller) error {
	b, err := p.Bundle(r.Context())
	if err != nil {
		return &web.Fault{
			Status: http.StatusServiceUnavailable, Name: "lists-missing", Title: "Not every list is there",
			Detail: "a list is missing or has ended; an incomplete file would refuse good certificates", Remedy: "ask again shortly", Cause: err,
		}
	}
	h := w.Header()
	h.Set("ETag", `"`+b.Tag()+`"`)
	h.Set("Cache-Control", fmt.Sprintf("public, max-age=%d", int(time.Minute.Seconds())))
	if r.Header.Get("If-None-Match") == h.Get("ETag") {
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	h.Set("Content-Type", "application/x-pem-file")
	if err := b.Write(r.Context(), w); err != nil {
		panic(http.ErrAbortHandler) // a part of the lists: the connection is all that can say so
	}
	return nil
}

// issuer serves what authorityInfoAccess names (RFC 5280 §4.2.2.1): "a single DER encoded certificate", application/pkix-cert.
func (p *PublicConfig) issuer(w http.ResponseWriter, r *http.Request, _ identity.Caller) error {
	name, ok := strings.CutSuffix(r.PathValue("file"), ".cer")
	auth, err := p.CA.Authority(name)
	if !ok || err != nil {
		return &web.Fault{
			Status: http.StatusNotFound, Name: "not-found", Title: "There is no such authority",
			Detail: fmt.Sprintf("issuer %.80q is not one of this service's", r.PathValue("file")), Remedy: "the address is in the certificate",
		}
	}
	return serve(w, r, file{auth.Certificate.Raw, "application/pkix-cert", time.Hour})
}

func (p *PublicConfig) roots(w http.ResponseWriter, r *http.Request, _ identity.Caller) error {
	var b []byte
	for _, root := range p.CA.Roots() {
		b = append(b, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.Raw})...)
	}
	return serve(w, r, file{b, "application/x-pem-file", bundleAge})
}

// bundleAge is how long a bundle may be kept. A root is published long before anything hangs on it.
const bundleAge = 5 * time.Minute

// A bundle is the SPIFFE Trust Domain and Bundle format (§4): a JWK Set with two members of its own.
type bundle struct {
	Keys     []jwk `json:"keys"`
	Sequence int64 `json:"spiffe_sequence"`     // "a monotonically increasing integer that is changed whenever the contents of the bundle change"
	Refresh  int   `json:"spiffe_refresh_hint"` // seconds
}

// A jwk is a root as a key (RFC 7517 §4). "The use parameter MUST be set to x509-svid"; x5c "MUST hold exactly one" (§4.2.2).
type jwk struct {
	Use string   `json:"use"`
	Kty string   `json:"kty"`
	Crv string   `json:"crv,omitempty"`
	X   string   `json:"x,omitempty"`
	Y   string   `json:"y,omitempty"`
	N   string   `json:"n,omitempty"`
	E   string   `json:"e,omitempty"`
	X5C []string `json:"x5c,omitempty"`
	Kid string   `json:"kid,omitempty"`
}

// A TokenKey verifies JWT-SVIDs.
type TokenKey struct{ ID, Kty, Crv, X, Y string }

func (p *PublicConfig) bundle(w http.ResponseWriter, r *http.Request, _ identity.Caller) error {
	b := bundle{Keys: []jwk{}, Refresh: int(bundleAge / time.Second)}
	for _, root := range p.CA.Roots() {
		k, err := keyOf(root)
		if err != nil {
			return fmt.Errorf("describing root %s: %w", root.Subject, err)
		}
		b.Keys = append(b.Keys, k)
		b.Sequence = max(b.Sequence, root.NotBefore.Unix()) // roots are added and never changed
	}
	if p.Tokens != nil {
		keys, sequence := p.Tokens()
		for _, k := range keys { // SPIFFE Trust Domain and Bundle §4.2.2: use is jwt-svid, and kid "MUST be set"
			b.Keys = append(b.Keys, jwk{Use: "jwt-svid", Kty: k.Kty, Crv: k.Crv, X: k.X, Y: k.Y, Kid: k.ID})
		}
		b.Sequence = max(b.Sequence, sequence)
	}
	body, err := json.Marshal(b)
	if err != nil {
		return fmt.Errorf("encoding the bundle: %w", err)
	}
	return serve(w, r, file{body, "application/json", bundleAge})
}

// keyOf describes a root as RFC 7518 §6 and RFC 8037 §2 do.
func keyOf(root *x509.Certificate) (jwk, error) {
	k := jwk{Use: "x509-svid", X5C: []string{base64.StdEncoding.EncodeToString(root.Raw)}} // RFC 7517 §4.7: "not base64url-encoded"
	b64 := base64.RawURLEncoding.EncodeToString
	switch pub := root.PublicKey.(type) {
	case *ecdsa.PublicKey:
		point, err := pub.Bytes() // SEC 1 §2.3.3, uncompressed: 04, x, y
		if err != nil {
			return jwk{}, err
		}
		half := len(point) / 2 //nolint:mnd // of the point without its first octet
		k.Kty, k.Crv, k.X, k.Y = "EC", pub.Params().Name, b64(point[1:1+half]), b64(point[1+half:])
	case ed25519.PublicKey:
		k.Kty, k.Crv, k.X = "OKP", "Ed25519", b64(pub)
	case *rsa.PublicKey:
		k.Kty, k.N, k.E = "RSA", b64(pub.N.Bytes()), b64(big.NewInt(int64(pub.E)).Bytes())
	default:
		return jwk{}, fmt.Errorf("key of type %T has no form in JOSE", pub)
	}
	return k, nil
}

// A file is an answer that caches may keep.
type file struct {
	body  []byte
	media string
	age   time.Duration
}

// serve answers f, or that nothing changed (RFC 9110 §13.1.2).
func serve(w http.ResponseWriter, r *http.Request, f file) error {
	sum := sha256.Sum256(f.body)
	tag := `"` + hex.EncodeToString(sum[:12]) + `"`
	h := w.Header()
	h.Set("ETag", tag)
	h.Set("Cache-Control", fmt.Sprintf("public, max-age=%d", int(f.age.Seconds())))
	if r.Header.Get("If-None-Match") == tag {
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	h.Set("Content-Type", f.media)
	_, err := w.Write(f.body)
	return err
}
