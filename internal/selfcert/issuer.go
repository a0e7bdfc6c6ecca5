package selfcert

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	"github.com/caddyserver/certmagic"
)

// An Authority issues the certificates.
type Authority interface {
	// IssueServer issues a server certificate for the key and names of csr, whose signature need not be checked: it was
	// made in this process. It returns the chain, leaf first, without the root. When it returns the certificate is in the
	// ledger. A repeated call is a further certificate.
	IssueServer(ctx context.Context, csr *x509.CertificateRequest) (chainPEM []byte, err error)
}

// issueTimeout leaves some of the lock's time for storing.
const issueTimeout = lockTTL - 3*time.Second

// An issuer is our authority as certmagic sees it.
type issuer struct {
	authority Authority
	due       func(*x509.Certificate) bool
}

// IssuerKey is a part of every storage key.
func (issuer) IssuerKey() string { return "segl" }

// Issue implements certmagic.Issuer. What it refuses is never stored: it would be asked for again at every check.
func (i issuer) Issue(ctx context.Context, csr *x509.CertificateRequest) (*certmagic.IssuedCertificate, error) {
	ctx, cancel := context.WithTimeout(ctx, issueTimeout)
	defer cancel()
	chain, err := i.authority.IssueServer(ctx, csr)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(chain)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, errors.New("the authority gave no certificate")
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("the authority gave no certificate: %w", err)
	}
	if key, ok := csr.PublicKey.(interface {
		Equal(other crypto.PublicKey) bool
	}); !ok || !key.Equal(leaf.PublicKey) {
		return nil, errors.New("the authority certified another key than was asked")
	}
	if i.due(leaf) {
		return nil, fmt.Errorf("the authority gave a certificate that is already due, valid from %s to %s: do the clocks differ?",
			leaf.NotBefore, leaf.NotAfter)
	}
	return &certmagic.IssuedCertificate{Certificate: chain}, nil
}
