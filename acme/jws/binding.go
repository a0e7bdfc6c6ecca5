package jws

import (
	"crypto"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/sha512"
	"fmt"
	"hash"
)

// macs are the algorithms of an external account binding (RFC 8555 §7.3.4: "MUST indicate a MAC-based algorithm").
var macs = map[string]func() hash.Hash{"HS256": sha256.New, "HS384": sha512.New384, "HS512": sha512.New}

// A Binding is the inner JWS of newAccount's externalAccountBinding, not yet believed: Verify is.
type Binding struct {
	KeyID string           // names the MAC key
	URL   string           // must equal the outer JWS's
	Key   crypto.PublicKey // the account key it binds; must equal the outer JWS's

	mac    func() hash.Hash
	signed string
	sum    []byte
}

// ParseBinding reads an inner JWS (RFC 8555 §7.3.4).
func ParseBinding(b []byte) (*Binding, error) {
	parts, err := flatten(b)
	if err != nil {
		return nil, err
	}
	h, err := readHeader(parts.header)
	if err != nil {
		return nil, err
	}
	mac, ok := macs[h.Alg]
	switch {
	case !ok:
		return nil, fmt.Errorf("%w: binding with alg %.20q: use HS256, HS384 or HS512 (RFC 8555 §7.3.4)", ErrAlgorithm, h.Alg)
	case h.Nonce != "": // RFC 8555 §7.3.4: "The "nonce" field MUST NOT be present"
		return nil, malformed("binding has a nonce (RFC 8555 §7.3.4)")
	case h.KeyID == "" || len(h.JWK) > 0 || h.URL == "":
		return nil, malformed(`binding must have "kid" and "url" and no "jwk" (RFC 8555 §7.3.4)`)
	}
	key, err := ParseKey(parts.payload)
	if err != nil {
		return nil, err
	}
	return &Binding{h.KeyID, h.URL, key, mac, parts.signed, parts.signature}, nil
}

// Verify returns nil if b carries the MAC of secret. It takes the same time whatever differs.
func (b *Binding) Verify(secret []byte) error {
	m := hmac.New(b.mac, secret)
	m.Write([]byte(b.signed)) // a hash never fails
	if !hmac.Equal(m.Sum(nil), b.sum) {
		return fmt.Errorf("%w under that binding key", ErrSignature)
	}
	return nil
}
