// Package crl turns one shard of the ledger into a signed list.
//
// A shard is an authority's certificates of one epoch, or of one part of it; its list names those that ended early, revoked
// and abandoned alike (RFC 5280 §5). A list is never older than the endings it was built from, and its number only grows: the
// number comes from the shard's row, not from a clock (RFC 5280 §5.2.3). Building does not publish; storing the list does,
// and only if the shard has not moved on meanwhile and the builder still holds its duty.
//
// # Shards
//
// The list of a shard says in a critical issuing distribution point which URL it answers for (RFC 5280 §5.2.5): octet for
// octet the one in the certificates, so that the list of one week proves nothing about another's. In how many parts an epoch
// is listed is decided once, before the first of its certificates is made, and never again, because certificates name
// their part: the serial's last octet, modulo the number of parts. The volume of the weeks before decides.
//
// Beside them stands, if its authority wants one, the whole list of each authority, without a distribution point, for relying
// parties that load a file and know of no shards: GnuTLS keeps one list an issuer and overlooks the distribution point,
// critical or not; OpenSSL, asked to check every certificate of a chain as PostgreSQL asks it, wants a list for the root,
// which names no URL (docs/relying-parties.md).
//
// # What a revocation costs
//
// A list is the one before it, with what ended since spliced in where it belongs: neither the ledger's rows nor the other
// shards are read again. Every Refresh the list is made from the ledger anew. Between two of these each list has a delta
// beside it, of the same number, with what ended since the last (RFC 5280 §5.2.4), where the complete list says it is
// (§5.2.6).
//
//	ledger --Since--> what ended, of all shards --splice--> list n+1 --sign--> publish if still n and still holder
//	ledger --Ended--> what ended, of one shard ---------------^  the first time, every Refresh, and after any doubt
//
// No transaction is open while a list is encoded, linted, signed and verified. Memory is that of one shard and of what is
// kept of others up to a bound. A Builder and a Server are safe for concurrent use.
package crl

import (
	"context"
	"crypto/x509"
	"errors"
	"time"

	"codeberg.org/dataverket/segl/ca/tbs"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/uid"
	"codeberg.org/dataverket/segl/kms"
)

// Errors that callers decide upon.
var (
	// ErrStale: the shard has a newer list than the one this was to follow. Build again, or leave it to who published that.
	ErrStale = errors.New("the shard has moved on")
	// ErrNotFound: the shard has no list, or no longer the one asked for.
	ErrNotFound = errors.New("no such list")
	// ErrForeign: the snapshot is of another life of the ledger, before it was restored elsewhere. Read everything.
	ErrForeign = errors.New("the snapshot is none of this database's")
)

// Duty is the name of the duty whose holder publishes lists.
const Duty = "lists"

// A Shard is the part of an authority's certificates that one list speaks for: those whose serials were made in an epoch, or
// one part of these, or all of them.
type Shard struct {
	Authority int
	Epoch     uid.Epoch // or Whole
	Part      uint8
}

// Whole stands for every epoch at once. Nothing was certified in the week it numbers, the first of 1970.
const Whole uid.Epoch = 0

// An Entry is one certificate that is no longer good.
type Entry struct {
	Serial cert.Serial
	At     time.Time
	Reason cert.Reason // Unspecified for what was abandoned
	Asked  time.Time   // to the microsecond; zero where that is not known. Lists do not say it
}

// An Ending is an entry of an authority, and the transaction that made it.
type Ending struct {
	Entry
	Authority   int
	Transaction uint64
}

// A Reach is an authority's certificates from an epoch on.
type Reach struct {
	Authority int
	From      uid.Epoch
}

// A Standing is a shard and the list it has.
type Standing struct {
	Shard
	Parts                  int   // how many share the epoch
	Number                 int64 // zero: it has none
	ThisUpdate, NextUpdate time.Time
	Seen                   Snapshot // every ending that it sees is in the list
	Entries                int
	Size, DeltaSize        int       // octets
	Base                   int64     // number of the list that the delta counts from
	BaseAt                 time.Time // when that was made
}

// A Publication is a list that is to take the place of another.
type Publication struct {
	Standing
	Previous   int64 // number of the list it follows; zero: none
	Term       int64 // under which the Duty is held
	At         time.Time
	DER, Delta []byte
	Fresh      []Entry // what it has and the list before it had not; empty where all was read anew
}

// Shards is what lists are built from and stored in. Implementations are safe for concurrent use.
type Shards interface {
	// Parts returns in how many parts the certificates of an authority and an epoch are listed: one, or another power of two up
	// to 256. The first to ask has it decided, durably and for ever.
	Parts(ctx context.Context, authority int, e uid.Epoch) (int, error)
	// Standing returns every shard of these authorities that has a list.
	Standing(ctx context.Context, authorities []int) ([]Standing, error)
	// Since calls ending for each within reach that seen does not see, in any order, all of one snapshot, and returns that. The
	// empty seen sees nothing. ErrForeign.
	Since(ctx context.Context, within []Reach, seen Snapshot, ending func(Ending)) (Snapshot, error)
	// Ended calls entry for each ending of s, once, in ascending order of serial, all of one snapshot, and returns that.
	// Whole has those of every epoch from from on. An error of entry ends it and is returned.
	Ended(ctx context.Context, s Standing, from uid.Epoch, entry func(Entry) error) (Snapshot, error)
	// Publish stores p in place of list p.Previous of its shard, durably, with the record that it was published. ErrStale: the
	// shard has another. Other errors, such as that the duty is held under another term, leave the effect unknown; publishing
	// again is safe.
	Publish(ctx context.Context, p Publication) error
	// Head returns s with its newest list, or ErrNotFound.
	Head(ctx context.Context, s Shard) (Standing, error)
	// Octets calls piece with the octets of list number of s, complete or delta, in order. What is passed may be kept.
	// ErrNotFound: it has been replaced, and nothing was passed.
	Octets(ctx context.Context, s Shard, number int64, kind Kind, piece func([]byte) error) error
	// Withdraw forgets the list of s: all it spoke for has expired.
	Withdraw(ctx context.Context, s Shard) error
}

// A Kind is one of the two lists of a number.
type Kind uint8

// The kinds.
const (
	Complete Kind = iota
	Delta
)

// An Authority is one whose lists are signed here.
type Authority struct {
	ID          int
	Name        string
	Certificate *x509.Certificate
	Key         kms.Key
	// URL is the base URL of its lists with the last slash, the one its certificates carry: tbs.Spec.CRLs.
	URL string
	// Life is the longest that it certifies anything for: so long after its epoch a shard is kept. Zero: LeafLife.
	Life time.Duration
	// NoWhole: it has no list of all its epochs.
	NoWhole bool
}

// The longest lives of profiles: of what ends a chain, and of authorities under a root.
const (
	LeafLife = 92 * 24 * time.Hour
	RootLife = 6 * 365 * 24 * time.Hour
)

// url is where the list of s is, as the certificates of that shard say; the whole list is at none of theirs.
func (a Authority) url(s Standing) string {
	if s.Epoch == Whole {
		return ""
	}
	return tbs.ListURL(a.URL, s.Epoch, s.Parts, int(s.Part))
}

// deltaURL is where the delta of s is.
func (a Authority) deltaURL(s Standing) string {
	u := tbs.ListURL(a.URL, s.Epoch, s.Parts, int(s.Part))
	return u[:len(u)-len(suffix)] + deltaSuffix
}

const (
	suffix      = ".crl"
	deltaSuffix = "-delta.crl"
)

// ended reports whether everything that the shard of epoch e could hold had expired at now.
func (a Authority) ended(e uid.Epoch, now time.Time) bool {
	return e != Whole && e.End().Add(a.life()).Before(now)
}

func (a Authority) life() time.Duration {
	if a.Life == 0 {
		return LeafLife
	}
	return a.Life
}

// oldest is the first epoch that may hold something that has not expired.
func (a Authority) oldest(now time.Time) uid.Epoch { return uid.EpochOf(now.Add(-a.life())) - 1 }

// Reach is what of a may not have expired.
func (a Authority) Reach(now time.Time) Reach { return Reach{a.ID, a.oldest(now)} }

// shardOf returns the shard of an epoch's parts that s stands in.
func shardOf(authority int, s cert.Serial, parts int) Shard {
	b := s.Bytes()
	return Shard{Authority: authority, Epoch: s.Epoch(), Part: uint8(int(b[len(b)-1]) % max(1, parts))} //nolint:gosec // parts ≤ 256
}
