package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
	"slices"
	"time"

	"codeberg.org/dataverket/segl/ca/tbs"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/policy"
	"codeberg.org/dataverket/segl/kms"
)

// A Purpose is what an authority is for. An authority signs the profiles of its purpose and its own OCSP responders.
type Purpose string

// The purposes.
const (
	Root      Purpose = "root"
	Servers   Purpose = "servers"   // TLS servers, by ACME or directly
	Workloads Purpose = "workloads" // SPIFFE identities
	Databases Purpose = "databases" // database servers and their clients
)

// Purposes are those that get an authority at first start, below the root.
var Purposes = []Purpose{Servers, Workloads, Databases}

// A Profile is what a certificate may be, in one scope, by one version of the rules: a Spec, with what the scopes between the
// platform and there narrowed. It never changes; a change makes another.
type Profile struct {
	Name    string
	Summary string // for people
	// Revision is the newest of the changes that it is made of: with the scope it names the rules, for ever.
	Revision int
	Purpose  Purpose
	Default  time.Duration // life when none is asked
	Max      time.Duration // longest life
	// Hosts says whether DNS and IP names are required, allowed or refused; Identity the same for the SPIFFE ID.
	Hosts, Identity Presence
	Role            bool            // carries a database role as its common name
	Keys            []kms.Algorithm // of its holder; RSA stands for that size and above. Nil: any that may be certified
	// NoRevAvail certificates say that nobody tells of their end (RFC 9608); MustStaple ones, that their server does (RFC 7633).
	NoRevAvail, MustStaple bool
	CRLs, OCSP, Issuers    bool // which addresses stand in it
	Withdrawn              bool // nothing more is issued by it

	usage  tbs.Usage
	broken error // why nothing can be issued by it: its rules cannot be read here
}

// Presence says how a kind of name stands to a profile.
type Presence uint8

// The three ways.
const (
	Refused Presence = iota
	Allowed
	Required
)

var presenceWords = [...]string{"refused", "allowed", "required"}

// String returns the word that a Spec has for it.
func (p Presence) String() string { return presenceWords[p] }

// Usage returns the extended key usage, in a Spec's words.
func (p *Profile) Usage() []string {
	switch p.usage {
	case tbs.Server:
		return []string{"server"}
	case tbs.Client:
		return []string{"client"}
	case tbs.ServerAndClient:
		return []string{"server", "client"}
	}
	return []string{}
}

const (
	day  = 24 * time.Hour
	year = 365 * day
)

// MinLife is the shortest life of a certificate.
const MinLife = 10 * time.Second

// LongestLife is the longest that a profile may allow: the lists and the ledger keep what is that old.
const LongestLife = 90 * day

// ShortLife is the longest life of a certificate that says nobody will tell of its end: what the public web calls short-lived
// (BR §1.6.1).
const ShortLife = 7 * day

// Profiles that nobody may ask for: the service makes them for itself. They are not configuration.
var (
	// responder is a delegated OCSP responder (RFC 6960 §4.2.2.2), of every purpose.
	responder = &Profile{Name: "ocsp-responder", Default: 7 * day, Max: 7 * day, Issuers: true, usage: tbs.OCSPResponder}
	// subordinate is an issuing authority below the root; anchor is the root itself.
	subordinate = &Profile{Name: "authority", Purpose: Root, Default: 5 * year, Max: 5 * year, usage: tbs.Authority}
	anchor      = &Profile{Name: "root", Purpose: Root, Default: 20 * year, Max: 20 * year, usage: tbs.Authority}
)

// ours are the names of profiles that are not configuration.
var own = []string{responder.Name, subordinate.Name, anchor.Name}

// StandardProfiles are the names of the profiles that a new ledger has. Which there are now, a ledger says: CA.Profiles.
var StandardProfiles = []string{"server", "workload", "client", "database-server", "database-client"}

// backdate is how far before now a certificate of the given life begins, for holders and peers whose clocks lag.
func backdate(life time.Duration) time.Duration {
	return min(time.Minute, life/10).Truncate(time.Second)
}

// open refuses a profile by which nothing is issued.
func (p *Profile) open() error {
	switch {
	case p.broken != nil:
		return fmt.Errorf("%w: the rules of profile %s cannot be read: %w", ErrUnavailable, p.Name, p.broken)
	case p.Withdrawn:
		return &policy.Refusal{What: "profile " + p.Name, Rule: "it is withdrawn", Remedy: "choose another: segl profile list shows them"}
	}
	return nil
}

// key refuses a holder's key of a kind that the profile does not take.
func (p *Profile) key(csr cert.Request) error {
	if p.Keys == nil {
		return nil
	}
	pub := csr.Key
	if pub == nil {
		var err error
		if pub, err = x509.ParsePKIXPublicKey(csr.SPKI); err != nil {
			return fmt.Errorf("%w: %w", cert.ErrBadKey, err)
		}
	}
	if slices.ContainsFunc(p.Keys, func(a kms.Algorithm) bool { return isOf(pub, a) }) {
		return nil
	}
	return &policy.Refusal{What: "a key of another kind", Rule: "profile " + p.Name, Remedy: fmt.Sprintf("make one of %v", p.Keys)}
}

// isOf reports whether pub is a key of kind a, or of RSA with at least its bits.
func isOf(pub crypto.PublicKey, a kms.Algorithm) bool {
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		return a == kms.P256 && k.Curve.Params().BitSize == 256 || a == kms.P384 && k.Curve.Params().BitSize == 384
	case ed25519.PublicKey:
		return a == kms.Ed25519
	case *rsa.PublicKey:
		least, ok := a.RSA()
		return ok && k.N.BitLen() >= least
	}
	return false
}

// life settles how long a certificate lives: what was asked, or the profile's default.
func (p *Profile) life(asked time.Duration) (time.Duration, error) {
	switch {
	case asked == 0:
		return p.Default, nil
	case asked < MinLife:
		return 0, &policy.Refusal{What: "a life of " + asked.String(), Rule: "the shortest life", Remedy: "ask for " + MinLife.String() + " or more"}
	case asked > p.Max:
		return 0, &policy.Refusal{What: "a life of " + asked.String(), Rule: "profile " + p.Name, Remedy: "ask for at most " + p.Max.String()}
	}
	return asked.Truncate(time.Second), nil
}

// Backdating is how far before its issuance a certificate may be asked to begin: what was ordered with a date is issued a
// while later.
const Backdating = time.Hour

// span settles how long a certificate lives whose first or last second was asked for, or neither. It may begin as early as
// any does, and may not reach further from now than the longest life: lists and the ledger keep what is that old.
func (p *Profile) span(req Request, now time.Time) (time.Duration, error) {
	if req.NotBefore.IsZero() && req.NotAfter.IsZero() {
		return p.life(req.Life)
	}
	refuse := func(what, remedy string) (time.Duration, error) {
		return 0, &policy.Refusal{What: what, Rule: "profile " + p.Name, Remedy: remedy}
	}
	from, to := req.NotBefore.Truncate(time.Second), req.NotAfter.Truncate(time.Second)
	earliest := now.Add(-Backdating).Truncate(time.Second)
	latest := now.Add(p.Max - backdate(p.Max)).Truncate(time.Second)
	switch {
	case req.Life != 0:
		return refuse("a life beside a first or last second", "ask for one of them")
	case !req.NotBefore.IsZero() && from.Before(earliest):
		return refuse("a certificate from "+from.UTC().Format(time.RFC3339), "it may begin "+earliest.UTC().Format(time.RFC3339)+" or later; leave it out to begin now")
	case req.NotBefore.IsZero():
		from = now.Add(-backdate(p.Default)).Truncate(time.Second)
	case req.NotAfter.IsZero():
		to = from.Add(min(p.Default, latest.Sub(from)) - time.Second)
	}
	life := to.Sub(from) + time.Second
	switch {
	case to.After(latest):
		return refuse("a certificate until "+to.UTC().Format(time.RFC3339), "it may end "+latest.UTC().Format(time.RFC3339)+" at the latest")
	case life < MinLife, life > p.Max, to.Before(now.Add(MinLife)):
		return refuse("a life of "+life.String(), "ask for "+MinLife.String()+" to "+p.Max.String())
	}
	return life, nil
}
