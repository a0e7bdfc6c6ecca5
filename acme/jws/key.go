package jws

import (
	"crypto"
	"encoding/base64"
	"fmt"

	"github.com/go-jose/go-jose/v4"

	"codeberg.org/dataverket/segl/internal/cert"
)

// private names the members of a JWK that hold secrets (RFC 7518 §6.2.2, §6.3.2, §6.4.1): nobody should send us one.
var private = map[string]bool{"d": true, "p": true, "q": true, "dp": true, "dq": true, "qi": true, "oth": true, "k": true}

// ParseKey reads a public JWK (RFC 7517) of a kind some algorithm of ours takes, and refuses weak ones.
func ParseKey(b []byte) (crypto.PublicKey, error) {
	_, err := members(b, func(name string, _ []byte) error {
		if private[name] {
			return fmt.Errorf("%w: the JWK has the private member %q: consider that key lost and send only its public part", ErrKey, name)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	var k jose.JSONWebKey
	if err := k.UnmarshalJSON(b); err != nil {
		return nil, fmt.Errorf("%w: not a JWK that is understood (RFC 7517 §4): use EC P-256 or P-384, OKP Ed25519, or RSA", ErrKey)
	}
	if err := cert.CheckKey(k.Key); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	return k.Key, nil
}

// Thumbprint returns the SHA-256 thumbprint of key (RFC 7638) in base64url, as key authorizations carry it (RFC 8555 §8.1).
func Thumbprint(key crypto.PublicKey) (string, error) {
	sum, err := (&jose.JSONWebKey{Key: key}).Thumbprint(crypto.SHA256)
	if err != nil {
		return "", fmt.Errorf("%w: taking its thumbprint: %w", ErrKey, err)
	}
	return base64.RawURLEncoding.EncodeToString(sum), nil
}
