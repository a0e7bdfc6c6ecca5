package ledger

import (
	"context"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/ca/ocsp"
	"codeberg.org/dataverket/segl/internal/cert"
)

// Receipts implements ca.Ledger. Which list first carried a revocation is not written down for each: it is the first
// publication whose snapshot sees it.
func (l *Ledger) Receipts(ctx context.Context, s cert.Serial) ([]ca.Receipt, error) {
	at := leafOf(s.UID())
	if there, err := l.has(ctx, "revocation", at); err != nil || !there {
		return nil, err
	}
	lists, err := l.listReceipts(ctx, at, s)
	if err != nil {
		return nil, gone(err)
	}
	rows, err := l.db.Query(ctx, `
		SELECT site, at, answer
		FROM   `+at.of("ocsp_receipt")+`
		WHERE  serial = $1
		ORDER  BY site`, s.Bytes())
	if err != nil {
		return nil, gone(err)
	}
	answers, err := pgx.CollectRows(rows, func(r pgx.CollectableRow) (v ca.Receipt, err error) {
		var answer []byte
		if err = r.Scan(&v.Site, &v.At, &answer); err == nil {
			v.At, v.Answer = v.At.UTC(), [32]byte(answer) // a CHECK bounds it
		}
		return v, err
	})
	return append(lists, answers...), gone(err)
}

func (l *Ledger) listReceipts(ctx context.Context, at leaf, s cert.Serial) ([]ca.Receipt, error) {
	rows, err := l.db.Query(ctx, `
		SELECT p.epoch, p.part, coalesce(d.parts, 1), p.number, p.at, p.site
		FROM   `+at.of("revocation")+` r
		LEFT   JOIN crl_split d ON d.authority = r.authority AND d.epoch = $2
		CROSS  JOIN LATERAL (
			SELECT $2::integer AS epoch, get_byte(r.serial, 17) % coalesce(d.parts, 1) AS part
			UNION  ALL
			SELECT 0, 0
		) w
		CROSS  JOIN LATERAL (
			SELECT c.epoch, c.part, c.number, c.at, c.site
			FROM   crl_publication c
			WHERE  c.authority = r.authority AND c.epoch = w.epoch AND c.part = w.part AND c.at >= r.revoked_at
			AND    pg_visible_in_snapshot(r.xid, c.seen)
			ORDER  BY c.at
			LIMIT  1
		) p
		WHERE  r.serial = $1
		ORDER  BY p.epoch DESC`, s.Bytes(), int(at.epoch))
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(r pgx.CollectableRow) (v ca.Receipt, err error) {
		v.List = &ca.ListReceipt{}
		err = r.Scan(&v.List.Epoch, &v.List.Part, &v.List.Parts, &v.List.Number, &v.At, &v.Site)
		if v.At = v.At.UTC(); v.List.Epoch == 0 {
			v.List.Parts = 1
		}
		return v, err
	})
}

// Carried records the OCSP answers that first told of revocations, and returns how long after each was asked for, as far as that
// is known. What has a receipt keeps it.
func (l *Ledger) Carried(ctx context.Context, list []ocsp.Receipt) ([]time.Duration, error) {
	byLeaf := map[leaf][]ocsp.Receipt{}
	for _, r := range list {
		at := leafOf(r.Serial.UID())
		byLeaf[at] = append(byLeaf[at], r)
	}
	var late []time.Duration
	for at, part := range byLeaf {
		if there, err := l.has(ctx, "ocsp_receipt", at); err != nil || !there {
			return late, err
		}
		n := len(part)
		serial, when, answer := make([][]byte, n), make([]time.Time, n), make([][]byte, n)
		for i, r := range part {
			serial[i], when[i], answer[i] = r.Serial.Bytes(), r.At, r.Answer[:]
		}
		lags, err := once(ctx, l.db, pgx.RowTo[*time.Duration], `
			WITH done AS (
				INSERT INTO `+at.of("ocsp_receipt")+` (serial, site, at, answer)
				SELECT DISTINCT ON (a.serial) a.serial, $4::smallint, a.at, a.answer
				FROM   unnest($1::bytea[], $2::timestamptz[], $3::bytea[]) AS a (serial, at, answer)
				ORDER  BY a.serial, a.at
				ON     CONFLICT DO NOTHING
				RETURNING serial, at
			)
			SELECT d.at - (SELECT r.at FROM `+at.of("revocation")+` r WHERE r.serial = d.serial)
			FROM   done d`, serial, when, answer, int16(l.site))
		if err != nil {
			return late, gone(err)
		}
		for _, d := range lags {
			if d != nil {
				late = append(late, *d)
			}
		}
	}
	return late, nil
}

// Uncarried returns which of these serials no OCSP answer of this site has told of yet.
func (l *Ledger) Uncarried(ctx context.Context, list []cert.Serial) ([]cert.Serial, error) {
	byLeaf := map[leaf][][]byte{}
	for _, s := range list {
		at := leafOf(s.UID())
		byLeaf[at] = append(byLeaf[at], s.Bytes())
	}
	var left [][]byte
	for at, part := range byLeaf {
		if there, err := l.has(ctx, "ocsp_receipt", at); err != nil || !there {
			return nil, err
		}
		rows, err := l.db.Query(ctx, `
			SELECT a.serial
			FROM   unnest($1::bytea[]) AS a (serial)
			WHERE  NOT EXISTS (SELECT FROM `+at.of("ocsp_receipt")+` WHERE serial = a.serial AND site = $2 OFFSET 0)`, part, int16(l.site))
		if err != nil {
			return nil, gone(err)
		}
		found, err := pgx.CollectRows(rows, pgx.RowTo[[]byte])
		if err != nil {
			return nil, gone(err)
		}
		left = slices.Concat(left, found)
	}
	return serials(left)
}
