package token

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"codeberg.org/dataverket/segl/kms"
)

// sign returns claims as a compact JWS (RFC 7515 §7.1) whose header says typ.
func sign(ctx context.Context, key SigningKey, typ string, claims any) (string, error) {
	payload, err := json.Marshal(claims)
	if err != nil {
		return "", fmt.Errorf("encoding claims: %w", err)
	}
	head := key.header(typ)
	b := make([]byte, 0, len(head)+1+base64.RawURLEncoding.EncodedLen(len(payload))+1+base64.RawURLEncoding.EncodedLen(2*coordinate))
	b = append(append(b, head...), '.')
	b = base64.RawURLEncoding.AppendEncode(b, payload)
	signature, err := kms.SignMessage(ctx, key.Key, b)
	if err != nil {
		return "", fmt.Errorf("signing with %s: %w", key.ID, err)
	}
	if _, ok := key.Key.Public().(*ecdsa.PublicKey); ok {
		if signature, err = fixed(signature); err != nil {
			return "", fmt.Errorf("signing with %s: %w", key.ID, err)
		}
	}
	b = append(b, '.')
	return string(base64.RawURLEncoding.AppendEncode(b, signature)), nil
}

// header returns the protected header in base64url (RFC 7515 §4.1): one spelling for each form of token, made once for a key.
func (k SigningKey) header(typ string) string {
	if h, ok := k.headers[typ]; ok {
		return h
	}
	return encodeHeader(k.Algorithm, k.ID, typ)
}

func encodeHeader(algorithm, id, typ string) string {
	text, err := json.Marshal(struct {
		Algorithm string `json:"alg"`
		ID        string `json:"kid"`
		Type      string `json:"typ"`
	}{algorithm, id, typ})
	if err != nil {
		panic("token: internal error: " + err.Error()) // strings are always JSON
	}
	return base64.RawURLEncoding.EncodeToString(text)
}

// coordinate is the length of one of P-256's.
const coordinate = 32

// fixed turns a signature as X.509 has it into what JOSE wants (RFC 7518 §3.4): r and s, 32 octets each.
//
//	Ecdsa-Sig-Value ::= SEQUENCE { r INTEGER, s INTEGER }
func fixed(der []byte) ([]byte, error) {
	var inner cryptobyte.String
	var r, s []byte
	in := cryptobyte.String(der)
	if !in.ReadASN1(&inner, asn1.SEQUENCE) || !inner.ReadASN1Integer(&r) || !inner.ReadASN1Integer(&s) || len(r) > coordinate || len(s) > coordinate {
		return nil, errors.New("the key's signature is no ECDSA-Sig-Value of P-256")
	}
	out := make([]byte, 2*coordinate)
	copy(out[coordinate-len(r):], r)
	copy(out[2*coordinate-len(s):], s)
	return out, nil
}

// A JWK is a public key as it is published (RFC 7517 §4, RFC 7518 §6.2, RFC 8037 §2).
type JWK struct {
	Kty string `json:"kty"`
	Crv string `json:"crv"`
	X   string `json:"x"`
	Y   string `json:"y,omitempty"`
	Use string `json:"use"`
	Kid string `json:"kid"`
	Alg string `json:"alg"`
}

// describe returns the public half of a key, without its name.
func describe(key kms.Key) (JWK, error) {
	b64 := base64.RawURLEncoding.EncodeToString
	switch pub := key.Public().(type) {
	case *ecdsa.PublicKey:
		point, err := pub.Bytes() // SEC 1 §2.3.3, uncompressed: 04, x, y
		if err != nil || len(point) != 1+2*coordinate {
			return JWK{}, fmt.Errorf("key %s: want one on P-256", key.Name())
		}
		return JWK{Kty: "EC", Crv: "P-256", X: b64(point[1 : 1+coordinate]), Y: b64(point[1+coordinate:]), Use: "sig", Alg: ES256}, nil
	case ed25519.PublicKey:
		return JWK{Kty: "OKP", Crv: "Ed25519", X: b64(pub), Use: "sig", Alg: EdDSA}, nil
	}
	return JWK{}, fmt.Errorf("key %s: tokens are signed with ES256 or EdDSA", key.Name())
}
