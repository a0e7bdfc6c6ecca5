package ledger

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/ca/crl"
	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/postgres"
)

// AddCross implements ca.Ledger.
func (l *Ledger) AddCross(ctx context.Context, c ca.CrossRow, f audit.Fact) error {
	return explained(postgres.Tx(ctx, l.db, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `
			INSERT INTO authority_cross (authority, issuer, certificate, made_at)
			VALUES ($1, $2, $3, $4)
			ON     CONFLICT DO NOTHING`, c.Authority, c.Issuer, c.Certificate, c.At)
		if err != nil || tag.RowsAffected() == 0 {
			return err
		}
		return note(ctx, tx, f, AuthoritiesChannel)
	}))
}

// Crosses implements ca.Ledger.
func (l *Ledger) Crosses(ctx context.Context) ([]ca.CrossRow, error) {
	rows, err := l.db.Query(ctx, `
		SELECT authority, issuer, certificate, made_at
		FROM   authority_cross
		ORDER  BY authority, made_at`)
	if err != nil {
		return nil, explained(err)
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[ca.CrossRow])
}

// AddList implements ca.Ledger. A number is used once, and they only grow (RFC 5280 §5.2.3).
func (l *Ledger) AddList(ctx context.Context, v ca.ListRow, f audit.Fact) error {
	return explained(postgres.Tx(ctx, l.db, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `
			INSERT INTO root_list (authority, number, der, this_update, next_update, imported_at)
			SELECT $1, $2, $3, $4, $5, $6
			WHERE  NOT EXISTS (SELECT FROM root_list WHERE authority = $1 AND number >= $2)`,
			v.Authority, v.Number, v.DER, v.ThisUpdate, v.NextUpdate, v.At)
		if err == nil && tag.RowsAffected() == 0 {
			var same bool
			err = tx.QueryRow(ctx, `
				SELECT EXISTS (SELECT FROM root_list WHERE authority = $1 AND number = $2 AND der = $3)`, v.Authority, v.Number, v.DER).Scan(&same)
			if err == nil && !same {
				err = ca.ErrConflict
			}
			return err
		}
		if err != nil {
			return err
		}
		return note(ctx, tx, f, AuthoritiesChannel)
	}))
}

// Offline has the lists of offline roots, which were made in a ceremony, beside those that are made here. It is for who serves lists;
// who makes them has no business with others'.
type Offline struct{ crl.Shards }

// Head implements crl.Shards.
func (o Offline) Head(ctx context.Context, s crl.Shard) (crl.Standing, error) {
	head, err := o.Shards.Head(ctx, s)
	l, ok := o.Shards.(*Ledger)
	if !errors.Is(err, crl.ErrNotFound) || s.Epoch != crl.Whole || !ok {
		return head, err
	}
	head = crl.Standing{Shard: s, Parts: 1}
	err = l.db.QueryRow(ctx, `
		SELECT number, this_update, next_update, octet_length(der)
		FROM   root_list
		WHERE  authority = $1
		ORDER  BY number DESC
		LIMIT  1`, s.Authority).Scan(&head.Number, &head.ThisUpdate, &head.NextUpdate, &head.Size)
	if errors.Is(err, pgx.ErrNoRows) {
		return head, crl.ErrNotFound
	}
	return head, err
}

// Octets implements crl.Shards.
func (o Offline) Octets(ctx context.Context, s crl.Shard, number int64, kind crl.Kind, piece func([]byte) error) error {
	err := o.Shards.Octets(ctx, s, number, kind, piece)
	l, ok := o.Shards.(*Ledger)
	if !errors.Is(err, crl.ErrNotFound) || s.Epoch != crl.Whole || kind != crl.Complete || !ok {
		return err
	}
	var der []byte
	err = l.db.QueryRow(ctx, `
		SELECT der
		FROM   root_list
		WHERE  authority = $1 AND number = $2`, s.Authority, number).Scan(&der)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return crl.ErrNotFound
	case err != nil:
		return fmt.Errorf("reading list %d of authority %d: %w", number, s.Authority, err)
	}
	return piece(der)
}
