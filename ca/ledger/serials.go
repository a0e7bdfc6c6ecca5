package ledger

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/internal/cert"
)

// Serials returns what became of every intent after the serial given, at most limit of them, in ascending order: that is,
// by site and by time. The zero Serial is before all. One made meanwhile may be missed by who has passed its second.
func (l *Ledger) Serials(ctx context.Context, after cert.Serial, limit int) ([]ca.Known, error) {
	leaves, err := l.leavesOf(ctx, "intent")
	if err != nil {
		return nil, fmt.Errorf("listing serials: %w", err)
	}
	from, first := []byte{}, leaf{}
	if !after.IsZero() {
		from, first = after.Bytes(), leafOf(after.UID())
	}
	var list []ca.Known
	for _, v := range leaves {
		if v.before(first) || len(list) >= limit {
			continue
		}
		some, err := l.serialsOf(ctx, v, from, limit-len(list))
		if err != nil && !missingTable(err) {
			return nil, fmt.Errorf("listing serials: %w", err)
		}
		list = append(list, some...)
	}
	return list, nil
}

func (l *Ledger) serialsOf(ctx context.Context, at leaf, from []byte, limit int) ([]ca.Known, error) {
	rows, err := l.db.Query(ctx, `
		SELECT i.serial,
		       CASE
		           WHEN o.serial IS NULL THEN 'open'
		           WHEN o.signature IS NULL THEN 'abandoned'
		           WHEN r.serial IS NULL THEN 'issued'
		           ELSE 'revoked'
		       END
		FROM   (
			SELECT serial, authority, scope, profile, not_after, key_mark, name_mark
			FROM   `+at.of("intent")+`
			WHERE  serial > $1
			ORDER  BY serial
			LIMIT  $2
		) i`+at.ends()+`
		ORDER  BY i.serial`, from, limit)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, known)
}

func known(row pgx.CollectableRow) (k ca.Known, err error) {
	var serial []byte
	if err = row.Scan(&serial, &k.State); err != nil {
		return k, err
	}
	k.Serial, err = cert.SerialFromBytes(serial)
	return k, err
}
