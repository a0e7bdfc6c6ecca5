package ca

import (
	"crypto/sha256"
	"time"

	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/uid"
)

// An Origin is why a certificate exists: an order, an enrolment token, the certificate it renews, or a request with an
// Idempotency-Key. One origin has one certificate. The zero Origin is a request of its own that nobody can repeat.
type Origin struct {
	ID uid.UID
	// Digest is what the first request with this origin asked, where only the same request may be repeated.
	Digest []byte
}

// RequestOrigin is the origin of a direct request that carries an Idempotency-Key: the same caller and the same key.
func RequestOrigin(site byte, who identity.Caller, key string, request []byte) Origin {
	h := sha256.New()
	for _, part := range []string{who.Actor, key} {
		h.Write([]byte(part))
		h.Write([]byte{0})
	}
	digest := sha256.Sum256(request)
	return Origin{ID: uid.Derive(uid.Request, site, time.Unix(0, 0), [32]byte(h.Sum(nil))), Digest: digest[:]}
}

// A Request asks for a certificate. Names that the CSR carries are what is asked for; what else it carries is not taken.
type Request struct {
	Scope   identity.Scope
	Profile string
	CSR     cert.Request
	// Identity is asked for when the CSR names none; it belongs to Scope.
	Identity identity.ID
	Life     time.Duration // zero means the profile's default
	Own      bool          // it is of this service's own listeners: they are needed behind a fence, too
	// NotBefore and NotAfter, where not zero, are the first and the last second of the certificate, in place of Life: within
	// what the profile allows, from now on.
	NotBefore, NotAfter time.Time
	Origin              Origin
	// Replaces is the certificate that this one succeeds: the one it renews, or what its requester said (RFC 9773 §5); else zero.
	Replaces cert.Serial
	// What is the fact this issuance becomes; empty means audit.Issue.
	What string
	// Also are facts that become true with the certificate, in its transaction.
	Also []audit.Fact
}

// A Certificate is one issued certificate as the ledger has it.
type Certificate struct {
	Serial    cert.Serial
	Scope     identity.Scope
	Profile   string
	Authority string
	NotBefore time.Time
	NotAfter  time.Time
	Names     []cert.Name
	Role      string // common name of a database-client certificate
	Key       cert.KeyID
	IssuedAt  time.Time
	DER       []byte
	Chain     [][]byte // the authorities above it, nearest first, without the root
	Root      []byte   // the anchor above Chain
	Crosses   [][]byte // by which other roots vouch for Root: each certificate, then that root
	Origin    uid.UID  // why it exists, or zero
	// Revoked is nil while the certificate stands.
	Revoked *Revoked
}

// Revoked says when and why a certificate ended.
type Revoked struct {
	At     time.Time
	Reason cert.Reason
}

// Identity returns the SPIFFE ID of c, or the zero ID.
func (c Certificate) Identity() identity.ID {
	for _, n := range c.Names {
		if id, err := identity.ParseID(n.Value()); n.Kind() == cert.URI && err == nil {
			return id
		}
	}
	return identity.ID{}
}

// Chains returns the authorities above c, nearest first, in each way to an anchor: without the root, and with it, for whoever
// keeps none.
func (c Certificate) Chains() [][][]byte {
	if len(c.Root) == 0 {
		return [][][]byte{c.Chain}
	}
	chains := [][][]byte{c.Chain, append(append([][]byte{}, c.Chain...), c.Root)}
	for i := 0; i+1 < len(c.Crosses); i += 2 { // for whoever trusts only the root that vouches
		chains = append(chains, append(append([][]byte{}, c.Chain...), c.Crosses[i]))
	}
	return chains
}
