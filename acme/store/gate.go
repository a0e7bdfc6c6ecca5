package store

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"codeberg.org/dataverket/segl/acme"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/uid"
)

// An entry is one request that asks to be let in. standing is filled in.
type entry struct {
	spend    spend
	account  uid.UID
	claim    uid.UID
	week     string // that claim was made in; it is known to be there
	standing acme.Standing
}

// Admit implements acme.Store.
func (s *Store) Admit(ctx context.Context, nonce string, account, claim uid.UID) (acme.Standing, error) {
	sp, ok := s.nonces.open(ctx, nonce)
	if !ok {
		return acme.Standing{}, nil
	}
	e := &entry{spend: sp, account: account}
	week, known := s.known("acme_authorization", claim)
	if known {
		e.claim, e.week = claim, week
	}
	if err := s.admitted.Do(ctx, e); err != nil {
		return acme.Standing{}, fmt.Errorf("being admitted: %w", err)
	}
	if !e.standing.Fresh { // used before, or the database has lived another life since
		s.nonces.reload(ctx, s.nonces.current())
	}
	if e.standing.Fresh && !known && !claim.IsZero() { // for the next one: nobody else waits, and the nonce is spent
		s.week(ctx, "acme_authorization", claim)
	}
	return e.standing, nil
}

// spendNonces sets bits of one block, if the key is still the database's, and tells which of them were set before: in a row
// that is new, none.
const spendNonces = `
	INSERT INTO acme_nonce AS n (block, made_at, spent, again)
	SELECT $1::bigint, $2::timestamptz, $3::varbit, $4::varbit
	FROM   acme_boot
	WHERE  id = $5
	ON     CONFLICT ON CONSTRAINT acme_nonce_pk DO UPDATE
	SET    spent = n.spent | excluded.spent,
	       again = n.spent & excluded.spent
	RETURNING n.again`

const accountStanding = `
	SELECT id, key_id, deactivated_at IS NOT NULL
	FROM   acme_account
	WHERE  id = $1`

const accountStandings = `
	SELECT a.id, a.key_id, a.deactivated_at IS NOT NULL
	FROM   unnest($1::bytea[]) AS n (id)
	CROSS  JOIN LATERAL (
	           SELECT d.id, d.key_id, d.deactivated_at
	           FROM   acme_account d
	           WHERE  d.id = n.id
	           LIMIT  1
	       ) a`

// admit lets requests in that came together, many nonces a statement. Blocks are taken in order, so that two replicas never
// wait for each other.
func (s *Store) admit(_ context.Context, b *pgx.Batch, group []*entry) func(pgx.BatchResults) error {
	slices.SortStableFunc(group, func(a, b *entry) int { return cmp.Compare(a.spend.block, b.spend.block) })
	var accounts [][]byte
	claimed := make(map[string][][]byte) // by week
	for _, e := range group {
		e.standing = acme.Standing{} // of a try before
		if !e.account.IsZero() {
			accounts = append(accounts, e.account.Bytes())
		}
		if !e.claim.IsZero() {
			claimed[e.week] = append(claimed[e.week], e.claim.Bytes())
		}
	}
	blocks := queueSpends(b, group)
	switch len(accounts) {
	case 0:
	case 1:
		b.Queue(accountStanding, accounts[0])
	default:
		b.Queue(accountStandings, accounts)
	}
	for week, ids := range claimed {
		b.Queue(selectAuthorizations(week), ids)
	}
	return func(results pgx.BatchResults) error {
		if err := readSpends(results, blocks); err != nil {
			return err
		}
		if len(accounts) > 0 {
			if err := readStandings(results, group); err != nil {
				return err
			}
		}
		return readClaims(results, len(claimed), group)
	}
}

// queueSpends adds a statement for each block of a group sorted by block, and returns the entries of each that may be
// fresh: of those with one nonce, the first.
func queueSpends(b *pgx.Batch, group []*entry) [][]*entry {
	var blocks [][]*entry
	for len(group) > 0 {
		head := group[0].spend
		spent := noBits()
		var first []*entry
		n := 0
		for ; n < len(group) && group[n].spend.block == head.block; n++ {
			e := group[n]
			octet := &spent.Bytes[e.spend.offset/8]
			if *octet&e.spend.mask() == 0 && string(e.spend.boot) == string(head.boot) {
				*octet |= e.spend.mask()
				first = append(first, e)
			}
		}
		b.Queue(spendNonces, int64(head.block), head.made, spent, noBits(), head.boot) //nolint:gosec // the same bits
		blocks, group = append(blocks, first), group[n:]
	}
	return blocks
}

func noBits() pgtype.Bits {
	return pgtype.Bits{Bytes: make([]byte, blockSize/8), Len: blockSize, Valid: true}
}

// mask is s's bit in its octet.
func (s spend) mask() byte { return 0x80 >> (s.offset % 8) }

// readSpends reads what queueSpends asked. No row: the key is not the database's.
func readSpends(results pgx.BatchResults, blocks [][]*entry) error {
	for _, first := range blocks {
		rows, err := results.Query()
		if err != nil {
			return err
		}
		var again pgtype.Bits
		_, err = pgx.ForEachRow(rows, []any{&again}, func() error {
			for _, e := range first {
				i := e.spend.offset / 8
				e.standing.Fresh = i < len(again.Bytes) && again.Bytes[i]&e.spend.mask() == 0
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func readStandings(results pgx.BatchResults, group []*entry) error {
	rows, err := results.Query()
	if err != nil {
		return err
	}
	var id, key []byte
	var ended bool
	_, err = pgx.ForEachRow(rows, []any{&id, &key, &ended}, func() error {
		for _, e := range group {
			if !e.account.IsZero() && string(e.account.Bytes()) == string(id) {
				e.standing.Known, e.standing.KeyID, e.standing.Deactivated = true, cert.KeyID(key), ended
			}
		}
		return nil
	})
	return err
}

// readClaims reads the authorizations asked for, from as many statements. One that is not there or cannot be understood is left
// to be asked for by itself: it is not to keep others out.
func readClaims(results pgx.BatchResults, statements int, group []*entry) error {
	for range statements {
		rows, err := results.Query()
		if err != nil {
			return err
		}
		for rows.Next() {
			a, err := toAuthorization(rows)
			if err != nil {
				continue
			}
			for _, e := range group {
				if e.claim == a.ID {
					e.standing.Claim = &a
				}
			}
		}
		if err := rows.Err(); err != nil {
			return err
		}
	}
	return nil
}
