// Package token gives identities access tokens, and takes them back with the identity.
//
// A client proves who it is by its certificate: in the handshake (RFC 8705 §2.1), or by a signature that brings the certificate
// along where a proxy ends TLS (RFC 7523). A binding says whose identity gets tokens for which audience, with which scopes and
// for how long. A token is a JWT (RFC 9068, or a JWT-SVID) signed by a key in the KMS; it is bound to that certificate or to a
// DPoP key (RFC 9449), and lives no longer than the certificate. Token exchange (RFC 8693) puts somebody else's name on it,
// with the client as the actor.
//
//	decide    who, binding, audience, scopes, life      no I/O: certificates, bindings and scopes are held in memory by notice
//	sign      with a deadline, no transaction open      the token exists in our memory alone
//	vouch     the fact, where all certificates that it is derived from still stand    durable: it is issued
//	answer
//
// So nothing leaves that the ledger does not know, and a certificate that was revoked between request and answer gives no token.
// What that costs is one fact a token, in a transaction that it shares with all that are being issued at once. There is no row a
// token: everything else about one is in it, signed.
//
// Whether a token is good is computed, never stored: it is over once it expires, once itself or a certificate that it was derived
// from is revoked, once its binding ends, and while its scope is suspended. Each of these leaves a fact; every replica follows
// those (Follow) and holds what ended for as long as a token could outlive it, so that introspection (RFC 7662) asks no database.
// What ended is also a signed list, by which others judge tokens offline (credentials/token/verify). Both are bounded: what
// there is no room for becomes a floor, below which tokens are asked about in the ledger, and refused offline; where it was tokens
// themselves that were revoked, of which the ledger has no list, they are refused everywhere.
//
// A replica that cannot follow says so and answers nothing: never active on doubt. The package speaks no HTTP and no SQL. A
// Server is safe for concurrent use.
package token

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"codeberg.org/dataverket/segl/credentials"
	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/kms"
)

// A Store keeps keys and what was used once, and reads what ended.
type Store interface {
	// Keys returns all token keys.
	Keys(ctx context.Context) ([]KeyRow, error)
	// AddKey stores a key with its fact, durably, and gives notice.
	AddKey(ctx context.Context, k KeyRow, f audit.Fact) error
	// RevokeKey marks a key revoked with its fact, durably, and gives notice; ErrNotFound. Repeating it changes nothing.
	RevokeKey(ctx context.Context, id string, f audit.Fact) error
	// Revoke records that a token is revoked, durably, and gives notice.
	Revoke(ctx context.Context, f audit.Fact) error
	// Ended returns a page of what ended since the position after, in an order in which nobody misses what is committed late, of
	// facts not older than since; and from when on everything was revoked that an incident touches which is at work now.
	Ended(ctx context.Context, after audit.Position, since time.Time) (Endings, error)
	// Spend reports whether mark was never spent before, on any replica, and remembers it at least until then.
	Spend(ctx context.Context, mark string, until time.Time) (first bool, err error)
	// Sweep forgets what was to be remembered until before now.
	Sweep(ctx context.Context, now time.Time) error
}

// Endings are a page of what ended.
type Endings struct {
	List  []End
	Next  audit.Position
	More  bool
	Floor time.Time // zero: no incident is at work
}

// An End is the end of something that tokens are derived from.
type End struct {
	At    time.Time
	Kind  string // of verify.MarkOf
	Value string
}

// A Ledger knows certificates and keeps facts.
type Ledger interface {
	// Vouch writes a fact in a transaction in which every one of serials stands and the fact's scope is not suspended, and is
	// durable on return; else ErrEnded or ErrSuspended.
	Vouch(ctx context.Context, f audit.Fact, serials ...cert.Serial) error
	// Stands returns nil if a certificate stands, ErrEnded if not.
	Stands(ctx context.Context, serial cert.Serial) error
	// Refuse writes down that a rule refused f, if it is not being flooded.
	Refuse(ctx context.Context, f audit.Fact, rule string) error
}

// Bindings are held in memory.
type Bindings interface {
	// Tokens returns the bindings that give id tokens, in a fixed order.
	Tokens(id identity.ID) []credentials.Binding
	// Holds reports whether a binding has not ended.
	Holds(id int64) bool
	// EndedSince returns the bindings that ended at a time or after.
	EndedSince(at time.Time) []int64
}

// Scopes are held in memory.
type Scopes interface {
	// Suspended returns the scope whose suspension stops s, or the zero Scope.
	Suspended(s identity.Scope) identity.Scope
	// AllSuspended returns every scope that is suspended itself.
	AllSuspended() []identity.Scope
}

// A Subject is whom somebody else's token names.
type Subject struct {
	Actor   string         // as facts name it; never a SPIFFE ID
	Scope   identity.Scope // where it belongs; zero: nowhere
	Act     string         // who acts for it already
	Expires time.Time
}

// Subjects judge tokens of configured OpenID providers: ErrSubject, or ErrUnavailable.
type Subjects interface {
	Subject(ctx context.Context, token string) (Subject, error)
}

// A Chains tells whose certificate chain it is, as the handshake would: valid now, for clients, standing.
type Chains interface {
	Holder(ctx context.Context, chain []*x509.Certificate) (identity.Caller, error)
}

// A Config is what a Server is made of.
type Config struct {
	// Issuer is the URL that tokens and metadata say, without a slash at its end.
	Issuer string
	// Domain is the SPIFFE trust domain.
	Domain string
	// Algorithms are those that keys are kept for, ES256, EdDSA; tokens are signed with the first, JWT-SVIDs with ES256. Default: ES256
	// and EdDSA.
	Algorithms []string
	// Life is the longest of any token, whatever a binding says. Default 24h.
	Life time.Duration
	// Rotation is how long a key signs. Default 30 days.
	Rotation time.Duration
	// Lead is how long a key is published before it signs: longer than whoever fetches key sets keeps them. Default 1h.
	Lead time.Duration

	Store    Store
	Ledger   Ledger
	Bindings Bindings
	Scopes   Scopes
	Subjects Subjects // nil: no exchange of others' tokens
	Chains   Chains   // nil: no assertions
	Keyring  kms.Keyring
	Now      func() time.Time
}

// A Server gives and judges tokens.
type Server struct {
	cfg   Config
	keys  atomic.Pointer[keyset]
	ended *ended
	read  *readings
	lists lists
}

const day = 24 * time.Hour

// New returns a server without keys: Rotate makes or reads them, Catch reads what has ended.
func New(cfg Config) (*Server, error) {
	orElse(&cfg.Life, day)
	orElse(&cfg.Rotation, 30*day)
	orElse(&cfg.Lead, time.Hour)
	if len(cfg.Algorithms) == 0 {
		cfg.Algorithms = []string{ES256, EdDSA}
	}
	for _, a := range cfg.Algorithms {
		if a != ES256 && a != EdDSA {
			return nil, fmt.Errorf("token algorithm %.20q: want ES256 or EdDSA", a)
		}
	}
	switch {
	case !slices.Contains(cfg.Algorithms, ES256):
		return nil, errors.New("token algorithms: want ES256 among them: a JWT-SVID has no EdDSA (JWT-SVID §2.1)")
	case cfg.Issuer == "" || cfg.Domain == "" || cfg.Store == nil || cfg.Ledger == nil || cfg.Bindings == nil || cfg.Scopes == nil || cfg.Keyring == nil || cfg.Now == nil:
		return nil, errors.New("token: internal error: a part is missing")
	case cfg.Lead < 2*KeysAge && cfg.Rotation > day || cfg.Rotation <= cfg.Lead:
		return nil, fmt.Errorf("token keys: each signs for %s and is published %s before: want at least %s before, and less than it signs", cfg.Rotation, cfg.Lead, 2*KeysAge)
	case cfg.Life > 7*day:
		return nil, fmt.Errorf("token life %s: want at most a week: what ended is remembered so long", cfg.Life)
	}
	s := &Server{cfg: cfg, ended: newEnded(cfg.Now), read: newReadings()}
	s.keys.Store(&keyset{life: cfg.Life})
	return s, nil
}

func orElse[T comparable](v *T, other T) {
	var zero T
	if *v == zero {
		*v = other
	}
}

// Issuer returns the issuer's URL.
func (s *Server) Issuer() string { return s.cfg.Issuer }

// Algorithms returns how tokens may be signed, the default first.
func (s *Server) Algorithms() []string { return s.cfg.Algorithms }
