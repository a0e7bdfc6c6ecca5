// Package ocsp answers whether a certificate is good, now (RFC 6960, RFC 5019, RFC 9654).
//
// Answers come from ledger facts and are signed by a delegated responder of the authority asked about, whose key lives in
// memory only and whose certificate is short-lived (RFC 6960 §4.2.2.2). A certificate is good when the ledger holds its
// signature and no revocation; revoked when revoked or abandoned; unknown when it was never intended. Where the ledger
// cannot be asked, or the intent is still open, the answer is tryLater.
//
// Invariant: good is never said on doubt, nor after Drop has returned for a revoked serial: an answer that was being made
// meanwhile is made again. Answers without a nonce are kept in a bounded cache for a short while, as long as notices
// arrive; a notice that is lost all the same costs no more than that while. Requests are read and answers
// written by hand, without reflection: this is the service's hottest path. A Responder is safe for concurrent use.
package ocsp

import (
	"context"
	"crypto"
	"crypto/x509"
	"time"

	"codeberg.org/dataverket/segl/internal/cert"
)

// A State is what the ledger holds of a serial.
type State uint8

// The states.
const (
	Unknown State = iota // never intended
	Open                 // intended; neither signed nor abandoned yet
	Good                 // signed, and not revoked
	Revoked              // revoked or abandoned
)

// A Status is a state with what belongs to it.
type Status struct {
	State     State
	Authority int         // that was to sign it
	At        time.Time   // of the revocation or abandonment
	Reason    cert.Reason // of the revocation; Unspecified for what was abandoned
}

// Ledger is what answers are made from.
type Ledger interface {
	// Status returns what is known of each serial, at an instant after the call began. A serial that is missing from the
	// result was never intended. An error means that nobody knows.
	Status(ctx context.Context, serials []cert.Serial) (map[cert.Serial]Status, error)
}

// Enroller gives responders their certificates. *ca.CA is one.
type Enroller interface {
	// EnrolResponder returns a certificate of profile ocsp-responder for key by the authority of that name. It is in the ledger
	// when it returns.
	EnrolResponder(ctx context.Context, authority string, key crypto.PublicKey) (*x509.Certificate, error)
}

// An Authority is one whose certificates are answered for here.
type Authority struct {
	ID          int
	Name        string
	Certificate *x509.Certificate
}

// How long answers hold.
const (
	// Validity is from thisUpdate to nextUpdate: how long a client may keep an answer, or staple it.
	Validity = time.Hour
	// CacheLife is how long the same answer is given again, here and by HTTP proxies: what a revocation may be late by when
	// its notice was missed, or behind a proxy.
	CacheLife = 30 * time.Second
	// backdate lets clients whose clocks lag believe an answer at once.
	backdate = time.Minute
)

// Config is what a Responder is made of.
type Config struct {
	Ledger   Ledger
	Enroller Enroller
	// Authorities returns those to answer for. RunOnce asks it again.
	Authorities func() []Authority
	Now         func() time.Time
	// ByName makes answers name their responder by its certificate's subject. Without it they do by its key, which is
	// shorter and what RFC 5019 §2.2.2 prefers; clients must know both (RFC 6960 §4.2.2.3).
	ByName bool
	// Told is given the receipt of each answer that tells of one revocation, before it leaves. It must not block. Nil: nobody is.
	Told func(Receipt)
}
