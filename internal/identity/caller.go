package identity

import (
	"crypto/x509"
	"fmt"
	"net/netip"

	"codeberg.org/dataverket/segl/internal/cert"
)

// A Caller is an authenticated actor with the evidence of who it is. Doors make one and hand it to a domain method as an
// argument. The zero Caller may do nothing.
type Caller struct {
	// Actor is who acts, as it stands in facts: a SPIFFE ID, "acme:<account>", "enrolment:<token id>" or "duty:<name>".
	Actor string
	// ID is the SPIFFE identity of a caller that showed a certificate of ours, else zero.
	ID ID
	// Scope is where the caller belongs.
	Scope Scope
	// Operator says that the caller may do everything, everywhere: an admin of the platform, or a duty of our own.
	Operator bool
	// Grants are the roles that bindings give the caller, as they were when it was named; nil is none. internal/access
	// fills and judges them.
	Grants *Grants
	// Proved is the scope in which the caller may have certificates issued for what it proved other than by an identity: an
	// ACME account, an enrolment token. Else zero.
	Proved Scope
	// Issuer and Claims are who vouches for a caller that came with a token of somebody else's, and what it says of it.
	Issuer string
	Claims *Claims
	// Serial is the certificate the caller showed, else zero. Ledger writes refuse it once it is revoked.
	Serial cert.Serial
	// Act is the party that really acts when Actor was delegated to (RFC 8693 §4.1), else empty.
	Act string
	// Remote is where the request came from.
	Remote netip.Addr
	// Request correlates log, fact and problem.
	Request string
}

// System returns the caller for periodic work of our own, such as "duty:recover".
func System(duty string) Caller {
	return Caller{Actor: "duty:" + duty, Scope: Platform, Operator: true}
}

// As returns c acting as somebody else, whom it proved to be otherwise: it keeps where it comes from, and no right.
func (c Caller) As(actor string, proved Scope) Caller {
	return Caller{Actor: actor, Scope: proved, Proved: proved, Remote: c.Remote, Request: c.Request}
}

// FromCertificate names the holder of a verified client certificate of ours: it has exactly one URI name, a SPIFFE ID of
// trust domain domain (X.509-SVID §2), and a serial of ours. It does not verify the chain: the TLS handshake did.
func FromCertificate(c *x509.Certificate, domain string) (Caller, error) {
	if len(c.URIs) != 1 {
		return Caller{}, fmt.Errorf("client certificate: has %d URI names, want exactly one SPIFFE ID (X.509-SVID §2)", len(c.URIs))
	}
	id, err := ParseID(c.URIs[0].String())
	if err != nil {
		return Caller{}, fmt.Errorf("client certificate: %w", err)
	}
	if id.Domain() != domain {
		return Caller{}, fmt.Errorf("client certificate: trust domain %q is not this service's, %q", id.Domain(), domain)
	}
	serial, err := cert.SerialFromInt(c.SerialNumber)
	if err != nil {
		return Caller{}, fmt.Errorf("client certificate: %w", err)
	}
	return Caller{Actor: id.String(), ID: id, Scope: id.Scope(), Serial: serial}, nil
}
