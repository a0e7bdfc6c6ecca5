// Package crl turns one shard of the ledger into a signed list.
//
// A shard is an authority's certificates of one epoch; its list names those that ended early, revoked and abandoned alike
// (RFC 5280 §5). A list is never older than the endings it was built from, and its number only grows: the number comes
// from the shard's row, not from a clock (RFC 5280 §5.2.3). Building does not publish; storing the list does, and only if
// the shard has not moved on meanwhile, so several replicas may build the same shard and one of them publishes.
//
// The list of a shard says in a critical issuing distribution point which URL it answers for (RFC 5280 §5.2.5): octet for
// octet the one in the certificates, so that the list of one week proves nothing about another's. Beside them stands the
// whole list of each authority, without a distribution point, for relying parties that load a file and know of no shards:
// GnuTLS keeps one list an issuer and overlooks the distribution point, critical or not; OpenSSL, asked to check every
// certificate of a chain as PostgreSQL asks it, wants a list for the root, which names no URL.
//
// No transaction is open while a list is encoded, linted, signed and verified. A Builder and a Server are safe for
// concurrent use.
package crl

import (
	"context"
	"crypto/x509"
	"errors"
	"strconv"
	"time"

	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/uid"
	"codeberg.org/dataverket/segl/kms"
)

// Errors that callers decide upon.
var (
	// ErrStale: the shard has a newer list than the one this was to follow. Build again, or leave it to who published that.
	ErrStale = errors.New("the shard has moved on")
	// ErrNotFound: the shard has no list.
	ErrNotFound = errors.New("no such list")
)

// A Shard is the part of an authority's certificates that one list speaks for: those whose serials were made in an epoch,
// or all of them.
type Shard struct {
	Authority int
	Epoch     uid.Epoch // or Whole
}

// Whole stands for every epoch at once. Nothing was certified in the week it numbers, the first of 1970.
const Whole uid.Epoch = 0

// A Due is a shard whose list is to be made, or made again.
type Due struct {
	Shard
	Number int64 // of the list it has; zero when it has none
}

// An Entry is one certificate that is no longer good.
type Entry struct {
	Serial cert.Serial
	At     time.Time
	Reason cert.Reason // Unspecified for what was abandoned
}

// A List is one signed list.
type List struct {
	Shard
	Number                 int64
	ThisUpdate, NextUpdate time.Time
	// Seen is the transaction id below which every finished ending of the shard is in the list (pg_snapshot_xmin at the
	// reading). An ending at or above it makes the shard due again.
	Seen uint64
	DER  []byte
}

// Shards is what lists are built from and stored in. Implementations are safe for concurrent use.
type Shards interface {
	// Due returns the shards of these authorities whose list is to be made: Whole, the epoch of now and the next, where they
	// have none; those whose list began before stale; and those with an ending that their list lacks. A shard whose last
	// certificate expired before stale is not due; Whole always may be.
	Due(ctx context.Context, authorities []int, now, stale time.Time) ([]Due, error)
	// Ended calls entry for each certificate of s that was revoked or abandoned, once, in ascending order of serial, all
	// of one snapshot, and returns what List.Seen is to say. Whole has those of every epoch that is still kept. An error of
	// entry ends it and is returned.
	Ended(ctx context.Context, s Shard, entry func(Entry) error) (seen uint64, err error)
	// Publish stores l in place of list number previous (zero: none) of its shard, durably. ErrStale: the shard has another.
	// Other errors leave the effect unknown; publishing again is safe.
	Publish(ctx context.Context, l List, previous int64) error
	// Find returns the newest list of s, or ErrNotFound.
	Find(ctx context.Context, s Shard) (List, error)
}

// An Authority is one whose lists are signed here.
type Authority struct {
	ID          int
	Name        string
	Certificate *x509.Certificate
	Key         kms.Key
	// URL is the base URL of its lists with the last slash, the one its certificates carry: tbs.Spec.CRLs.
	URL string
}

// url is where the list of epoch e is, as the certificates of that epoch say; the whole list is at none of theirs.
func (a Authority) url(e uid.Epoch) string {
	if e == Whole {
		return ""
	}
	return a.URL + strconv.Itoa(int(e)) + ".crl"
}
