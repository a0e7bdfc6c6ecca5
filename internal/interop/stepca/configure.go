package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"

	"github.com/smallstep/certificates/authority/config"
	"github.com/smallstep/certificates/authority/provisioner"
	"github.com/smallstep/certificates/db"
	"go.step.sm/crypto/jose"
	"go.step.sm/crypto/minica"
)

// Names of the provisioners. The ACME one is in the directory's path.
const (
	direct = "bench"
	byACME = "acme"
)

// configure returns a configuration as `step ca init --acme` would write it, with Postgres for a store and no log of
// requests.
func configure(o options, address string) (*config.Config, place, error) {
	authority, err := minica.New(minica.WithName("step-ca, measured"))
	if err != nil {
		return nil, place{}, fmt.Errorf("making an authority: %w", err)
	}
	key, public, err := provisionerKey()
	if err != nil {
		return nil, place{}, err
	}
	issuing, err := privatePEM(authority.Signer)
	if err != nil {
		return nil, place{}, err
	}
	at := place{
		URL: "https://" + address, Directory: "https://" + address + "/acme/" + byACME + "/directory",
		Root: filepath.Join(o.dir, "root.pem"), Issuer: direct, KeyID: public.KeyID, Key: string(key),
	}
	files := map[string][]byte{
		at.Root: certificatePEM(authority.Root), filepath.Join(o.dir, "issuer.pem"): certificatePEM(authority.Intermediate),
		filepath.Join(o.dir, "issuer.key"): issuing,
	}
	for name, text := range files {
		if err := os.WriteFile(name, text, 0o600); err != nil {
			return nil, place{}, fmt.Errorf("writing the authority: %w", err)
		}
	}
	cfg := &config.Config{
		Root:             []string{at.Root},
		IntermediateCert: filepath.Join(o.dir, "issuer.pem"),
		IntermediateKey:  filepath.Join(o.dir, "issuer.key"),
		Address:          address,
		DNSNames:         []string{"127.0.0.1"},
		DB:               &db.Config{Type: "postgresql", DataSource: o.database},
		AuthorityConfig: &config.AuthConfig{
			// A token tells its time in whole seconds, and may be made in the second in which step-ca starts.
			DisableIssuedAtCheck: true,
			Provisioners: provisioner.List{
				&provisioner.JWK{Type: "JWK", Name: direct, Key: public},
				&provisioner.ACME{Type: "ACME", Name: byACME},
			},
		},
	}
	cfg.Init()
	return cfg, at, nil
}

// provisionerKey makes the key that signs tokens, and tells its public half as step-ca's configuration has it.
func provisionerKey() ([]byte, *jose.JSONWebKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("making a provisioner's key: %w", err)
	}
	text, err := privatePEM(key)
	if err != nil {
		return nil, nil, err
	}
	public := &jose.JSONWebKey{Key: key.Public(), Algorithm: jose.ES256, Use: "sig"}
	if public.KeyID, err = jose.Thumbprint(public); err != nil {
		return nil, nil, fmt.Errorf("naming a provisioner's key: %w", err)
	}
	return text, public, nil
}

func privatePEM(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("writing a key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

func certificatePEM(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}
