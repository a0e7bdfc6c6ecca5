// Package jwstest makes signed requests for tests, the well-formed and everything else: what a caller puts in the header
// and the body is signed as it stands. It is for tests only and safe for concurrent use.
package jwstest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"hash"
	"testing"

	"github.com/go-jose/go-jose/v4"
)

// A Header is a protected header; members appear as they marshal.
type Header map[string]any

// NewKey returns a fresh P-256 key.
func NewKey(t testing.TB) *ecdsa.PrivateKey { return ECKey(t, elliptic.P256()) }

// ECKey returns a fresh key on curve.
func ECKey(t testing.TB, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// JWK returns the public half of key as a JWK.
func JWK(t testing.TB, key crypto.Signer) json.RawMessage {
	t.Helper()
	b, err := (&jose.JSONWebKey{Key: key.Public()}).MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Algorithm returns the JWS algorithm that goes with key.
func Algorithm(key crypto.Signer) string {
	switch k := key.(type) {
	case *ecdsa.PrivateKey:
		if k.Curve == elliptic.P384() {
			return "ES384"
		}
		return "ES256"
	case ed25519.PrivateKey:
		return "EdDSA"
	}
	return "RS256"
}

// B64 is base64url without padding.
func B64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// Sign returns the flattened JWS of header and payload under key.
func Sign(t testing.TB, key crypto.Signer, h Header, payload string) []byte {
	t.Helper()
	b, err := json.Marshal(h)
	if err != nil {
		t.Fatal(err)
	}
	return SignRaw(t, key, string(b), payload)
}

// SignRaw is Sign with the header's very bytes.
func SignRaw(t testing.TB, key crypto.Signer, header, payload string) []byte {
	t.Helper()
	protected, body := B64([]byte(header)), B64([]byte(payload))
	return Body(protected, body, B64(Signature(t, key, protected+"."+body)))
}

// Body puts three encoded parts together.
func Body(protected, payload, signature string) []byte {
	return []byte(`{"protected":"` + protected + `","payload":"` + payload + `","signature":"` + signature + `"}`)
}

// Signature returns the JWS signature of signed under key (RFC 7518 §3.1).
func Signature(t testing.TB, key crypto.Signer, signed string) []byte {
	t.Helper()
	switch k := key.(type) {
	case *ecdsa.PrivateKey:
		size := (k.Curve.Params().BitSize + 7) / 8
		r, s, err := ecdsa.Sign(rand.Reader, k, digest(size, signed))
		if err != nil {
			t.Fatal(err)
		}
		return append(r.FillBytes(make([]byte, size)), s.FillBytes(make([]byte, size))...)
	case ed25519.PrivateKey:
		return ed25519.Sign(k, []byte(signed))
	case *rsa.PrivateKey:
		b, err := rsa.SignPKCS1v15(rand.Reader, k, crypto.SHA256, digest(32, signed))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	t.Fatalf("no algorithm for %T", key)
	return nil
}

func digest(size int, signed string) []byte {
	if size == 48 {
		sum := sha512.Sum384([]byte(signed))
		return sum[:]
	}
	sum := sha256.Sum256([]byte(signed))
	return sum[:]
}

// Bind returns an external account binding of key (RFC 8555 §7.3.4) under secret.
func Bind(t testing.TB, secret []byte, h Header, key crypto.Signer) []byte {
	t.Helper()
	b, err := json.Marshal(h)
	if err != nil {
		t.Fatal(err)
	}
	sums := map[any]func() hash.Hash{"HS384": sha512.New384, "HS512": sha512.New}
	sum := sums[h["alg"]]
	if sum == nil {
		sum = sha256.New
	}
	protected, payload := B64(b), B64(JWK(t, key))
	mac := hmac.New(sum, secret)
	mac.Write([]byte(protected + "." + payload))
	return Body(protected, payload, B64(mac.Sum(nil)))
}
