package remote

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"codeberg.org/dataverket/segl/internal/identity"
)

// A Peer is one end of a connection between places of the platform: who we are, and who the other end may be. Files are read
// for each handshake, so that what renews them need not tell us.
type Peer struct {
	Certificate string        // PEM file: our certificate and those above it
	Key         string        // PEM file
	Roots       string        // PEM file: what the other's certificate must lead to
	Others      []identity.ID // one of which the other end must be
	Now         func() time.Time
}

// check refuses what would let anybody in.
func (p Peer) check() error {
	if len(p.Others) == 0 || p.Now == nil {
		return errors.New("a peer needs a clock and the identities of the other end")
	}
	for _, id := range p.Others {
		if !id.Scope().IsPlatform() {
			return fmt.Errorf("identity %s: want one of the platform", id)
		}
	}
	if _, err := p.load(); err != nil {
		return err
	}
	_, err := p.roots()
	return err
}

// Client returns how a site reaches a perspective. Host names do not matter: identities do (X.509-SVID §5).
func (p Peer) Client() (*tls.Config, error) {
	if err := p.check(); err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion:           tls.VersionTLS13,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return p.load() },
		InsecureSkipVerify:   true, //nolint:gosec // VerifyConnection verifies the chain and the identity
		VerifyConnection:     func(s tls.ConnectionState) error { return p.verify(s, x509.ExtKeyUsageServerAuth) },
	}, nil
}

// Server returns how a perspective lets sites in.
func (p Peer) Server() (*tls.Config, error) {
	if err := p.check(); err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		GetCertificate:         func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return p.load() },
		ClientAuth:             tls.RequireAnyClientCert, // VerifyConnection verifies it
		SessionTicketsDisabled: true,                     // each connection shows its certificate again
		NextProtos:             []string{"h2", "http/1.1"},
		VerifyConnection:       func(s tls.ConnectionState) error { return p.verify(s, x509.ExtKeyUsageClientAuth) },
	}, nil
}

func (p Peer) load() (*tls.Certificate, error) {
	c, err := tls.LoadX509KeyPair(p.Certificate, p.Key)
	if err != nil {
		return nil, fmt.Errorf("reading our certificate: %w", err)
	}
	return &c, nil
}

func (p Peer) roots() (*x509.CertPool, error) {
	raw, err := os.ReadFile(p.Roots)
	if err != nil {
		return nil, fmt.Errorf("reading roots: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(raw) {
		return nil, fmt.Errorf("reading roots: %s has no PEM certificate", p.Roots)
	}
	return pool, nil
}

// verify wants the other end's certificate to lead to a root, be for what it is used as, and name one of the identities that
// are expected, and nothing else.
func (p Peer) verify(s tls.ConnectionState, usage x509.ExtKeyUsage) error {
	if len(s.PeerCertificates) == 0 {
		return errors.New("the other end shows no certificate")
	}
	roots, err := p.roots()
	if err != nil {
		return err
	}
	above := x509.NewCertPool()
	for _, c := range s.PeerCertificates[1:] {
		above.AddCert(c)
	}
	leaf := s.PeerCertificates[0]
	_, err = leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: above, CurrentTime: p.Now(), KeyUsages: []x509.ExtKeyUsage{usage}})
	if err != nil {
		return fmt.Errorf("the other end's certificate: %w", err)
	}
	if len(leaf.URIs) != 1 { // X.509-SVID §2
		return errors.New("the other end's certificate has no identity, or several")
	}
	id, err := identity.ParseID(leaf.URIs[0].String())
	if err != nil || !slices.Contains(p.Others, id) {
		return fmt.Errorf("the other end is %s, which is not expected here", leaf.URIs[0])
	}
	return nil
}
