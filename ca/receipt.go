package ca

import (
	"context"
	"fmt"
	"time"

	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/uid"
)

// A Receipt says what first told relying parties that a certificate is revoked, and when: a list of a shard, the whole list, or
// an OCSP answer.
type Receipt struct {
	Site byte
	At   time.Time
	// List is set for a list.
	List *ListReceipt
	// Answer is the SHA-256 of an OCSP answer in DER, where List is nil.
	Answer [32]byte
}

// A ListReceipt names a published list: the epoch of its shard, zero for the whole list, which of its epoch's parts it is for,
// and its number, which no other list of the shard has (RFC 5280 §5.2.3).
type ListReceipt struct {
	Epoch       uid.Epoch
	Part, Parts int
	Number      int64
}

// Receipts returns what first carried the revocation of s. What has not carried it yet is not there.
func (a *CA) Receipts(ctx context.Context, s cert.Serial) ([]Receipt, error) {
	all, err := a.Ledger.Receipts(ctx, s)
	if err != nil {
		return nil, fmt.Errorf("reading the receipts of %s: %w", s, err)
	}
	return all, nil
}
