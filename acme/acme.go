// Package acme is the domain of an ACME server (RFC 8555): accounts, orders, authorizations, challenges, and what may
// become of them.
//
// It knows no HTTP, no JWS and no SQL: a door hands it requests whose signature it can ask about (Admit), a Store keeps
// its facts, a Validator asks the outside world, an Issuer makes certificates. What a client may be told is a *Problem;
// any other error is ours.
//
// No status is stored. Facts are, and each status is computed from them and the clock:
//
//	authorization   pending ──(validation succeeded)──> valid ──(time)──> expired
//	                   │ └─────(validation failed)────> invalid
//	                   └───────(time)────────────────> expired
//
//	order           pending ──(all authorizations valid)──> ready ──(finalization)──> processing ──(certificate)──> valid
//	                   └──(one failed, expired)──> invalid <──(failure)───────────────────┘
//
// A validation is performed outside any transaction and settled once: the replica that takes the client's word validates at
// once, and if that is not quick it records the attempt, under a lease by the database's clock, before it says that it is
// at it; if it dies then, another's poll takes the attempt over (Run). A try that may succeed later is repeated on a bounded
// schedule (retry.go). Accounts and scopes take turns at the workers (line.go).
// However often and wherever an order is finalized, it has one certificate, because the order is the certificate's origin
// (package ca). What cannot be issued at once is claimed by a row, and issued by Recover.
//
// Every name is checked against the scope's rights when it is ordered and again when it is issued. An account belongs to
// one scope and is nobody in another. A Server is safe for concurrent use.
package acme

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/uid"
)

// An Issuer makes, finds and ends certificates: *ca.CA.
type Issuer interface {
	Issue(ctx context.Context, who identity.Caller, req ca.Request) (ca.Certificate, error)
	ByOrigin(ctx context.Context, o ca.Origin) (ca.Certificate, error)
	Certificate(ctx context.Context, s cert.Serial) (ca.Certificate, error)
	Revoke(ctx context.Context, who identity.Caller, s cert.Serial, why cert.Reason) (ca.Certificate, error)
	// RenewalInfo says when a certificate is best renewed: what the ledger knows of incidents is in it.
	RenewalInfo(ctx context.Context, s cert.Serial) (ca.RenewalInfo, error)
	// Profile says what certificates of a profile may be in a scope.
	Profile(scope identity.Scope, name string) (*ca.Profile, error)
}

// A Config is what a Server is made of. All of it is required but what says otherwise.
type Config struct {
	Site      byte // this site's number
	Store     Store
	Issuer    Issuer
	Scopes    ca.Scopes
	NoScope   error // what Scopes says of a scope that is not there; nil: ca.ErrNotFound
	Validator Validator
	// Permission is asked besides, when a name is validated and when an order is finalized long after. Nil: nobody is.
	Permission Permission
	// Sealer seals the keys of external accounts. Nil: there are none, and none can be made.
	Sealer Sealer
	// MinLifetime is the shortest life of certificates that renew themselves (RFC 8739). Zero: DefaultMinLifetime.
	MinLifetime time.Duration
	// Limits bounds how much may be asked. Nil: nothing does.
	Limits Limits
	Now    func() time.Time
	Log    *slog.Logger
	// Attester judges devices' statements. Nil: no device can be proved.
	Attester Attester
	// TrustDomain is the first part of the identities that devices get. Required with an Attester.
	TrustDomain string
	// Identities are the issuer domain names by which records name us (RFC 8659 §4.2). Nil: none.
	Identities []string
	// AccountURL returns an account's URL, for what names accounts outside of ACME: CAA and TXT records. Nil: none does.
	AccountURL func(scope identity.Scope, account uid.UID) string
	// Drafts are the methods without an RFC that are offered (see Drafts). Nil: none.
	Drafts []Method
	// Retries is the schedule by which a validation is tried again that may succeed later: how long after each failed try.
	// Nil: one try.
	Retries []time.Duration
	// Terms is the URL of the terms of service that an account must agree to. Empty: there are none.
	Terms string
	// Keep is how long orders are kept after the week they were made in. While its order is there, a certificate can be fetched
	// again, and be revoked by the account that ordered it, so that it should exceed the longest life. Zero: 100 days; at
	// least 35.
	Keep time.Duration
	// Workers is how many validations run at once. Zero: 32.
	Workers int
	// Patience is how long a challenge's answer waits for its validation, so that quick ones spare the client a poll.
	// Zero: 250 ms. Negative: not at all.
	Patience time.Duration
}

// Lives of what is made here.
const (
	orderLife         = 7 * 24 * time.Hour
	authorizationLife = 7 * 24 * time.Hour
)

const (
	defaultWorkers  = 32
	defaultKeep     = 100 * 24 * time.Hour
	minKeep         = 35 * 24 * time.Hour // authorizations last a week, and statements name the partitions of four
	defaultPatience = 250 * time.Millisecond
)

// A Server is the ACME service of all scopes. Run makes it validate.
type Server struct {
	Config
	accounts *accounts
	recent   *recent
	settings *settings
	memory   *memory
	doorstep ca.Doorstep // bounds the facts of requests that cannot be taken
	line     *line
	pending  *pending
}

// New returns a Server; Run must be running for anything to be validated.
func New(c Config) (*Server, error) {
	if c.Site == 0 || c.Store == nil || c.Issuer == nil || c.Scopes == nil || c.Validator == nil || c.Now == nil || c.Log == nil {
		return nil, errors.New("making an ACME server: a site, store, issuer, scopes, validator, clock and log are required")
	}
	if c.Attester != nil && c.TrustDomain == "" {
		return nil, errors.New("making an ACME server: an attester needs a trust domain")
	}
	if c.MinLifetime <= 0 {
		c.MinLifetime = DefaultMinLifetime
	}
	if c.NoScope == nil {
		c.NoScope = ca.ErrNotFound
	}
	if c.Keep == 0 {
		c.Keep = defaultKeep
	}
	if c.Keep < minKeep {
		return nil, fmt.Errorf("keeping orders for %s: keep them for %s at least, so that none leaves while clients are at it", c.Keep, minKeep)
	}
	if c.Workers <= 0 {
		c.Workers = defaultWorkers
	}
	if c.Patience == 0 {
		c.Patience = defaultPatience
	}
	return &Server{Config: c, accounts: newAccounts(), recent: newRecent(), settings: newSettings(), memory: newMemory(), line: newLine(c.Workers), pending: newPending()}, nil
}

func (s *Server) accountURL(account uid.UID, scope identity.Scope) string {
	if s.AccountURL == nil {
		return ""
	}
	return s.AccountURL(scope, account)
}
