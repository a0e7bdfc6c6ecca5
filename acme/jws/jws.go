// Package jws reads the signed requests of ACME: flattened JWS with the header of RFC 8555 §6.2.
//
// Parse is strict where RFC 7515 leaves room: one JSON object with exactly the members protected, payload and signature,
// no member twice, base64url without padding or line breaks, nothing after it, at most MaxSize octets. What Parse returns
// is not yet believed: Verify is. Four algorithms are taken (Algorithms), each only with the key it is defined for, so
// that nobody can make a public key serve as a MAC secret. Keys are read by go-jose and must pass cert.CheckKey.
//
// The package knows no nonces, URLs or accounts: the door compares those. It keeps no state; a Message may be verified
// concurrently.
package jws

import (
	"crypto"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// MaxSize bounds a request body: the largest certificate request we take, encoded twice, fits.
const MaxSize = 64 << 10

// The decisions a door makes about a refused JWS. Each is wrapped with the rule and the remedy, safe to show.
var (
	// ErrMalformed: not a JWS as RFC 8555 §6.2 wants it.
	ErrMalformed = errors.New("malformed JWS")
	// ErrAlgorithm: signed with something outside Algorithms.
	ErrAlgorithm = errors.New("signature algorithm refused")
	// ErrKey: the key in the header, or one given to Verify, may not be used.
	ErrKey = errors.New("key refused")
	// ErrSignature: the signature is not by that key over these bytes.
	ErrSignature = errors.New("signature does not verify")
)

// A Message is a parsed request whose signature nobody has checked yet.
type Message struct {
	Algorithm string           // one of Algorithms
	Nonce     string           // empty when absent
	URL       string           // as signed
	KeyID     string           // the account URL; empty when Key is there
	Key       crypto.PublicKey // the key in the header; nil when KeyID is there
	Payload   []byte           // empty in POST-as-GET (RFC 8555 §6.3)

	alg       algorithm
	signed    string // BASE64URL(protected) "." BASE64URL(payload), RFC 7515 §5.1
	signature []byte
}

// Parse reads a request body.
func Parse(body []byte) (*Message, error) {
	parts, err := flatten(body)
	if err != nil {
		return nil, err
	}
	h, err := readHeader(parts.header)
	if err != nil {
		return nil, err
	}
	alg, ok := algorithms[h.Alg]
	if !ok {
		return nil, fmt.Errorf("%w: alg %.20q: use one of %s", ErrAlgorithm, h.Alg, strings.Join(Algorithms(), ", "))
	}
	m := &Message{
		Algorithm: h.Alg, Nonce: h.Nonce, URL: h.URL, KeyID: h.KeyID,
		Payload: parts.payload, alg: alg, signed: parts.signed, signature: parts.signature,
	}
	// RFC 8555 §6.2: "The "jwk" and "kid" fields are mutually exclusive. Servers MUST reject requests that contain both."
	switch {
	case h.URL == "":
		return nil, malformed(`header has no "url" (RFC 8555 §6.4)`)
	case (h.KeyID == "") == (len(h.JWK) == 0):
		return nil, malformed(`header must have exactly one of "jwk" and "kid" (RFC 8555 §6.2)`)
	case len(h.JWK) > 0:
		if m.Key, err = ParseKey(h.JWK); err != nil {
			return nil, err
		}
		if err := alg.takes(m.Key); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// Verify returns nil if key signed m. A key of another type than m.Algorithm's is refused with ErrKey.
func (m *Message) Verify(key crypto.PublicKey) error {
	if err := m.alg.takes(key); err != nil {
		return err
	}
	if !m.alg.verify(key, []byte(m.signed), m.signature) {
		return fmt.Errorf("%w under the account's key", ErrSignature)
	}
	return nil
}

// header is a protected header (RFC 7515 §4, RFC 8555 §6.2).
type header struct {
	Alg   string          `json:"alg"`
	Nonce string          `json:"nonce"`
	URL   string          `json:"url"`
	KeyID string          `json:"kid"`
	JWK   json.RawMessage `json:"jwk"`
}

func readHeader(b []byte) (header, error) {
	var h header
	seen, err := members(b, func(name string, value []byte) error {
		var to any
		switch name {
		case "alg":
			to = &h.Alg
		case "nonce":
			to = &h.Nonce
		case "url":
			to = &h.URL
		case "kid":
			to = &h.KeyID
		case "jwk":
			h.JWK = value
			return nil
		case "crit", "b64":
			// RFC 7515 §4.1.11: extensions that are not understood make the JWS invalid; RFC 8555 §6.2 rules out RFC 7797.
			return malformed("header has %q: no extension is taken", name)
		default: // RFC 7515 §4: "all Header Parameters not defined … MUST be ignored"
			return nil
		}
		return unquote(name, value, to.(*string))
	})
	if err != nil {
		return header{}, err
	}
	for name, empty := range map[string]bool{"alg": h.Alg == "", "kid": seen["kid"] && h.KeyID == "", "jwk": string(h.JWK) == "null"} {
		if empty {
			return header{}, malformed("header has no value for %q", name)
		}
	}
	// RFC 8555 §6.5.2: a nonce that is not base64url makes the JWS malformed.
	if _, err := decode(h.Nonce); err != nil {
		return header{}, malformed("nonce is not base64url (RFC 8555 §6.5.2)")
	}
	return h, nil
}

// flattened is a JWS in the flattened JSON serialization (RFC 7515 §7.2.2), decoded.
type flattened struct {
	header, payload, signature []byte
	signed                     string
}

func flatten(body []byte) (flattened, error) {
	if len(body) > MaxSize {
		return flattened{}, malformed("longer than %d octets", MaxSize)
	}
	var protected, payload, signature string
	fields := map[string]*string{"protected": &protected, "payload": &payload, "signature": &signature}
	seen, err := members(body, func(name string, value []byte) error {
		to, ok := fields[name]
		if !ok {
			// RFC 8555 §6.2: no unprotected header, no general serialization, one signature.
			return malformed("member %.40q: only protected, payload and signature are taken (RFC 8555 §6.2)", name)
		}
		return unquote(name, value, to)
	})
	if err != nil {
		return flattened{}, err
	}
	for _, name := range []string{"protected", "payload", "signature"} {
		if !seen[name] {
			return flattened{}, malformed("member %q is missing (RFC 7515 §7.2.2)", name)
		}
	}
	f := flattened{signed: protected + "." + payload}
	if f.header, err = decode(protected); err != nil {
		return flattened{}, malformed("protected is not base64url (RFC 7515 §2)")
	}
	if f.payload, err = decode(payload); err != nil {
		return flattened{}, malformed("payload is not base64url (RFC 7515 §2)")
	}
	if f.signature, err = decode(signature); err != nil || len(f.signature) == 0 {
		return flattened{}, malformed("signature is empty or not base64url (RFC 7515 §2)")
	}
	return f, nil
}

// strict64 is base64url with no padding and no stray bits (RFC 7515 §2, RFC 4648 §3.5).
var strict64 = base64.RawURLEncoding.Strict()

func decode(s string) ([]byte, error) {
	if strings.ContainsAny(s, "\r\n") { // the standard decoder skips them
		return nil, errors.New("line break in base64url")
	}
	return strict64.DecodeString(s)
}

func unquote(name string, value []byte, to *string) error {
	s, ok := text(value)
	if !ok {
		return malformed("%q is not a string", name)
	}
	*to = s
	return nil
}

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, args...))
}
