package ca

import (
	"context"
	"time"

	"codeberg.org/dataverket/segl/ca/incident"
	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/uid"
)

// An Intent is a certificate about to be signed.
type Intent struct {
	Serial    cert.Serial
	Authority int
	Scope     identity.Scope
	Profile   string
	NotAfter  time.Time
	TBS       []byte
	Key       cert.KeyID
	Caller    cert.Serial // refused once revoked; zero when the caller showed no certificate
	Origin    Origin
	Attempt   int
}

// A Completion is an intent's signature and the facts that become true with it.
type Completion struct {
	Serial    cert.Serial
	At        time.Time
	Signature []byte
	Facts     []audit.Fact
	Replaces  cert.Serial // what it succeeds, or zero
}

// A Record is an intent with what became of it.
type Record struct {
	Intent
	At        time.Time // of the outcome
	Signature []byte    // nil while open, and for ever when abandoned
	Abandoned bool
	Revoked   *Revoked
}

// A Revocation ends a certificate.
type Revocation struct {
	Serial   cert.Serial
	At       time.Time
	Reason   cert.Reason
	BlockKey cert.KeyID // never certified again, unless zero
	Caller   cert.Serial
	Fact     audit.Fact
}

// A Query selects certificates of a scope and everything below it, in order of expiry; revoked ones alone in order of
// their making, and those of a requester the newest first. The zero Scope is everywhere.
type Query struct {
	Scope          identity.Scope
	ExpiringBefore time.Time // zero means any
	ExpiringAfter  time.Time
	Revoked        bool       // only revoked ones
	Profile        string     // only those of it, unless empty
	Authority      int        // only those that it issued, unless zero
	Overdue        time.Time  // only those that are valid then and should have a successor by then, but have none; zero means any
	Requester      string     // only those that this actor asked for, unless empty
	Name           cert.Name  // only those that bear it, an identity among them; the zero Name is any
	Key            cert.KeyID // only those of this key, unless zero
	After          Cursor
	Limit          int
}

// A Cursor is where a page of a Query ended.
type Cursor struct {
	NotAfter time.Time
	Serial   cert.Serial
	Fact     audit.Position // of a requester's
}

// A Page is a part of what a Query selects. A page looks at a bounded number of certificates, so where a query selects few
// of them it may be short, or empty, with More to come.
type Page struct {
	Records []Record
	Next    Cursor // to go on from
	More    bool   // there may be more
}

// Overdue reports whether a certificate made and ending at these times should have a successor by now: its window of renewal
// (incident.Usual) is past by a twelfth of its life.
func Overdue(made, notAfter, now time.Time) bool {
	const of, from = 3, 4
	return !now.Before(made.Add(notAfter.Sub(made)/from*of)) && !now.After(notAfter)
}

// An Enrolment is a one-time token that lets one workload in.
type Enrolment struct {
	Token   uid.UID
	Hash    [32]byte // SHA-256 of the token's secret
	Scope   identity.Scope
	Profile string
	ID      identity.ID
	Names   []cert.Name // host names it may have besides
	MadeAt  time.Time
	Expires time.Time
}

// A Ledger keeps intents, outcomes, revocations and facts. Every method that writes is durable when it returns nil. An error
// from a write that is none of the named ones leaves its effect unknown: it may have happened. Implementations
// are safe for concurrent use.
type Ledger interface {
	// Intend records in. ErrOriginTaken: the origin has this attempt already. ErrCallerRevoked, ErrKeyBlocked.
	Intend(ctx context.Context, in Intent) error
	// Complete records the signature. ErrSettled: the intent was abandoned, completed before, or never was.
	Complete(ctx context.Context, c Completion) error
	// Abandon ends the open intents made before the given time, each with fact f, and returns their serials.
	Abandon(ctx context.Context, before time.Time, f audit.Fact) ([]cert.Serial, error)
	// ByOrigin returns the latest attempt of an origin, or ErrNotFound.
	ByOrigin(ctx context.Context, id uid.UID) (Record, error)
	// BySerial returns what became of an intent, or ErrNotFound.
	BySerial(ctx context.Context, s cert.Serial) (Record, error)
	// Renewal returns an intent with what moves its renewal at the time now, in one round trip, or ErrNotFound.
	Renewal(ctx context.Context, s cert.Serial, now time.Time) (Renewal, error)
	// Stands returns nil for a certificate that was issued and is not revoked, else ErrNotFound or ErrCallerRevoked.
	Stands(ctx context.Context, s cert.Serial) error
	// Select returns a page of completed certificates.
	Select(ctx context.Context, q Query) (Page, error)
	// Revoke records r once. ErrNotFound, ErrAlreadyRevoked, ErrCallerRevoked.
	Revoke(ctx context.Context, r Revocation) error
	// Receipts returns what first carried a revocation.
	Receipts(ctx context.Context, s cert.Serial) ([]Receipt, error)
	// Refuse records a refusal.
	Refuse(ctx context.Context, f audit.Fact) error
	// AddAuthority records an authority whose key exists. ErrConflict: one of that name is there.
	AddAuthority(ctx context.Context, a AuthorityRow, f audit.Fact) error
	// Authorities returns all of them, parents first.
	Authorities(ctx context.Context) ([]AuthorityRow, error)
	// AddProfile records a change of a profile, and its fact. ErrConflict: another change has its revision. ErrNotFound: no such scope.
	AddProfile(ctx context.Context, r ProfileRow, f audit.Fact) error
	// Profiles returns every change of a profile, in the order of their revisions.
	Profiles(ctx context.Context) ([]ProfileRow, error)
	// AddCross records that a root vouches for another, and AddList a list of an offline root. Repeating changes nothing. ErrConflict:
	// a list of a number as great is there.
	AddCross(ctx context.Context, c CrossRow, f audit.Fact) error
	AddList(ctx context.Context, l ListRow, f audit.Fact) error
	// Crosses returns every certificate by which a root vouches for another.
	Crosses(ctx context.Context) ([]CrossRow, error)
	// Activate records v. ErrConflict: it is not prepared, or another was activated at the same time.
	Activate(ctx context.Context, v Activation) error
	// Retire records v. ErrConflict: it signs, or it is retired already.
	Retire(ctx context.Context, v Retirement) error
	// Record records an incident that an authority's revocation is.
	Record(ctx context.Context, i incident.Incident, f audit.Fact) error
	// Alive reports whether an authority has signed a certificate that is valid at the time now.
	Alive(ctx context.Context, authority int, now time.Time) (bool, error)
	// AddEnrolment records a one-time token and its fact. ErrNotFound: no such scope. ErrConflict: it is there. ErrCallerRevoked:
	// the fact's.
	AddEnrolment(ctx context.Context, e Enrolment, f audit.Fact) error
	// Enrolment returns a token, or ErrNotFound.
	Enrolment(ctx context.Context, token uid.UID) (Enrolment, error)
}

// An AuthorityRow is an authority as it is stored.
type AuthorityRow struct {
	ID          int
	Name        string
	Purpose     Purpose
	Site        byte
	Scope       identity.Scope // for whom it signs; the platform is everybody
	Parent      int            // zero for a root
	Certificate []byte
	Key         string // name of its key in the KMS; empty for an offline root
	CreatedAt   time.Time
	ActivatedAt time.Time // zero while it is prepared
	RetiringAt  time.Time // zero until another signs in its place
	RetiredAt   time.Time // zero until nothing that it signed is valid
}

// A CrossRow is a certificate of one root's name and key that another has signed.
type CrossRow struct {
	Authority, Issuer int
	Certificate       []byte
	At                time.Time
}

// A ListRow is a list of an offline root.
type ListRow struct {
	Authority              int
	Number                 int64
	DER                    []byte
	ThisUpdate, NextUpdate time.Time
	At                     time.Time
}

// An Activation lets a prepared authority sign, and the one that signed for its purpose retire.
type Activation struct {
	Name   string
	At     time.Time
	Fact   audit.Fact
	Spread time.Duration // over which what the former one signed is renewed
	// Incident is the identifier of the incident that says so; Upto the least serial that the new one can have made.
	Incident, Upto uid.UID
	Ends           time.Time // when all that the former one signed has expired
}

// A Retirement ends an authority that signs nothing any more, or that was never to sign.
type Retirement struct {
	Name string
	At   time.Time
	Fact audit.Fact
}
