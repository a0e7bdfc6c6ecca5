package main

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// What a load needs to sign one-time tokens of a step-ca, beside what dev.env has for a segl.
const (
	envIssuer = "STEPCA_ISSUER"
	envKeyID  = "STEPCA_KEY_ID"
	envKey    = "STEPCA_KEY"
)

// sign asks a step-ca for one certificate a request, each with a key, a name and a one-time token of its own.
func (s spec) sign() (*job, error) {
	total := s.Warm + s.Count
	orders, err := makeOrders(total, "server")
	if err != nil {
		return nil, err
	}
	key, err := s.tokenKey()
	if err != nil {
		return nil, err
	}
	p, _, err := s.service()
	if err != nil {
		return nil, err
	}
	requests := make([][]byte, total)
	for i, o := range orders {
		token, err := s.token(key, o.name, time.Now())
		if err != nil {
			return nil, err
		}
		csr := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: o.csr})
		body, err := json.Marshal(map[string]string{"csr": string(csr), "ott": token})
		if err != nil {
			return nil, err
		}
		requests[i] = post(p.host, "/1.0/sign", "application/json", body)
	}
	return s.replay(p, requests, http.StatusCreated, nil)
}

func (s spec) tokenKey() (*ecdsa.PrivateKey, error) {
	block, _ := pem.Decode([]byte(s.Env[envKey]))
	if block == nil {
		return nil, errors.New("reading the key that signs tokens: no PEM")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("reading the key that signs tokens: %w", err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("reading the key that signs tokens: %T: want ECDSA", parsed)
	}
	return key, nil
}

// token makes a JWT (RFC 7519) that lets its bearer have one certificate of a name, once.
func (s spec) token(key *ecdsa.PrivateKey, name string, now time.Time) (string, error) {
	header, err := json.Marshal(map[string]string{"alg": "ES256", "kid": s.Env[envKeyID], "typ": "JWT"})
	if err != nil {
		return "", err
	}
	claims, err := json.Marshal(map[string]any{
		"iss": s.Env[envIssuer], "aud": s.Env["SEGL_URL"] + "/1.0/sign", "sub": name, "sans": []string{name}, "jti": rand.Text(),
		"iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(time.Hour).Unix(),
	})
	if err != nil {
		return "", err
	}
	said := b64(header) + "." + b64(claims)
	sig, err := signES256(key, said)
	return said + "." + sig, err
}

// signES256 signs as RFC 7518 §3.4 says: both numbers, 32 octets each.
func signES256(key *ecdsa.PrivateKey, said string) (string, error) {
	digest := sha256.Sum256([]byte(said))
	r, s, err := ecdsa.Sign(rand.Reader, key, digest[:])
	if err != nil {
		return "", err
	}
	const half = 32
	var sig [2 * half]byte
	r.FillBytes(sig[:half])
	s.FillBytes(sig[half:])
	return b64(sig[:]), nil
}
