package store

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"codeberg.org/dataverket/segl/ca/seal"
	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/postgres"
)

// Arrive notices that the ledger was restored from a dump, or has come to another cluster. It then fences, numbers new rows
// above all old ones, and empties tables that were meant to be empty: a dump carries what a crash would have forgotten. It
// reports whether it did. It comes before anything else is written.
func (s *Store) Arrive(ctx context.Context, now time.Time, forget ...string) (arrived bool, err error) {
	err = postgres.Tx(ctx, s.db, func(tx pgx.Tx) error {
		if err := tx.QueryRow(ctx, `SELECT ledger_arrive()`).Scan(&arrived); err != nil || !arrived {
			return err
		}
		for _, table := range forget {
			if _, err := tx.Exec(ctx, `TRUNCATE `+pgx.Identifier{table}.Sanitize()); err != nil {
				return err
			}
		}
		err := raise(ctx, tx, "the ledger was restored from a dump, or moved: what it had forgotten by then is not known", now)
		if err != nil {
			return err
		}
		return renumber(ctx, tx, now) // raise has not, where the dump was taken behind a fence
	})
	if err != nil {
		return false, fmt.Errorf("seeing which cluster the ledger is in: %w", err)
	}
	return arrived, nil
}

// Raise has everybody stop issuing, for a reason, and lists take numbers that were never used. The first reason stands.
func (s *Store) Raise(ctx context.Context, why string, now time.Time) error {
	return postgres.Tx(ctx, s.db, func(tx pgx.Tx) error { return raise(ctx, tx, why, now) })
}

func raise(ctx context.Context, tx pgx.Tx, why string, now time.Time) error {
	tag, err := tx.Exec(ctx, `
		INSERT INTO seal_fence (since, why)
		VALUES ($1, $2)
		ON     CONFLICT DO NOTHING`, now, why)
	if err != nil || tag.RowsAffected() == 0 {
		return err
	}
	if _, err := tx.Exec(ctx, `SELECT pg_notify('`+FenceChannel+`', '')`); err != nil {
		return err
	}
	return renumber(ctx, tx, now)
}

// Gap returns what accepting it would accept, or seal.ErrNotFenced.
func (s *Store) Gap(ctx context.Context, site byte, now time.Time) (seal.Gap, error) {
	g := seal.Gap{Site: site, Ends: now}
	var err error
	if g.Why, err = s.Fence(ctx); err != nil {
		return g, fmt.Errorf("reading the fence: %w", err)
	}
	if g.Why == "" {
		return g, seal.ErrNotFenced
	}
	if g.Head, err = s.Head(ctx); err != nil {
		return g, fmt.Errorf("reading the tree: %w", err)
	}
	// Facts are made all the time behind a fence: it is the sealed ones that were there before.
	err = s.q.QueryRow(ctx, `
		SELECT coalesce((SELECT at FROM fact WHERE xid <= $1::text::xid8 ORDER BY xid DESC LIMIT 1), $2)`,
		decimal(g.Head.Last.Transaction), now).Scan(&g.Begins)
	return g, err
}

// Compare splits evidence into what the ledger does not know, and what a list has as revoked and the ledger has not. The rest
// is as the ledger says.
func (s *Store) Compare(ctx context.Context, all []seal.Evidence) (lost, undone []seal.Evidence, err error) {
	serials := make([]cert.Serial, len(all))
	for i, e := range all {
		serials[i] = e.Serial
	}
	revoked := map[cert.Serial]bool{} // of those that are known
	for at, some := range byLeaf(serials) {
		if there, err := s.has(ctx, "intent"+at); err != nil {
			return nil, nil, err
		} else if !there {
			continue
		}
		rows, err := s.q.Query(ctx, `
			SELECT i.serial, r.serial IS NOT NULL
			FROM   intent`+at+` i
			LEFT   JOIN revocation`+at+` r ON r.serial = i.serial
			WHERE  i.serial = ANY ($1::bytea[])`, some)
		found, err := endings(rows, err)
		if err != nil {
			return nil, nil, err
		}
		for _, e := range found {
			revoked[e.Serial] = e.Signed // the second column
		}
	}
	for _, e := range all {
		switch gone, known := revoked[e.Serial]; {
		case !known:
			lost = append(lost, e)
		case e.Revoked != nil && !gone:
			undone = append(undone, e)
		}
	}
	return lost, undone, nil
}

// Authorities returns the certificates of the ledger's authorities by name.
func (s *Store) Authorities(ctx context.Context) (map[string]*x509.Certificate, error) {
	rows, err := s.q.Query(ctx, `
		SELECT name, certificate
		FROM   authority`)
	if err != nil {
		return nil, err
	}
	out := map[string]*x509.Certificate{}
	var (
		name string
		der  []byte
	)
	_, err = pgx.ForEachRow(rows, []any{&name, &der}, func() error {
		c, err := x509.ParseCertificate(der)
		out[name] = c
		return err
	})
	return out, err
}

// Accept ends a fence: g is a fact from then on, another era begins, and what is lost is revoked; all of it in one
// transaction. seal.ErrMoved: the ledger is not the one that g was made from.
func (s *Store) Accept(ctx context.Context, g seal.Gap, who identity.Caller, now time.Time) error {
	return postgres.Tx(ctx, s.db, func(tx pgx.Tx) error {
		if err := s.nextEra(ctx, tx, g, now); err != nil {
			return err
		}
		facts := []audit.Fact{{
			At: now, Who: who, Scope: identity.Platform, What: seal.GapAccepted, Subject: fmt.Sprintf("era %d, %d lost serials", g.Era(), len(g.Lost)),
			Why: g.Why,
		}}
		for _, e := range g.Lost {
			if err := lose(ctx, tx, e, now); err != nil {
				return fmt.Errorf("revoking %s: %w", e.Serial, err)
			}
			facts = append(facts, audit.Fact{At: now, Who: who, Scope: identity.Platform, What: seal.Lost, Serial: e.Serial, Subject: e.Authority})
		}
		for _, e := range g.Undone {
			if err := again(ctx, tx, e); err != nil {
				return fmt.Errorf("revoking %s again: %w", e.Serial, err)
			}
			facts = append(facts, audit.Fact{At: now, Who: who, Scope: identity.Platform, What: audit.Revoke, Serial: e.Serial, Why: e.Reason.String()})
		}
		if _, err := tx.Exec(ctx, audit.Insert, audit.Columns(facts...)...); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `SELECT pg_notify('`+FenceChannel+`', '')`)
		return err
	})
}

func (s *Store) nextEra(ctx context.Context, tx pgx.Tx, g seal.Gap, now time.Time) error {
	tag, err := tx.Exec(ctx, `
		DELETE FROM seal_fence
		WHERE  why = $1`, g.Why)
	if err != nil {
		return err
	}
	if tag.RowsAffected() != 1 {
		return seal.ErrMoved
	}
	tag, err = tx.Exec(ctx, `
		INSERT INTO seal_head AS h (era, size, xid, id, edge, checkpoint, sealed_at)
		VALUES ($1, 0, '0', 0, '', '', $3)
		ON     CONFLICT (one) DO UPDATE
		SET    era = excluded.era
		WHERE  h.era = $4 AND h.size = $2`, g.Era(), g.Head.Size, now, g.Head.Era)
	if err != nil {
		return err
	}
	if tag.RowsAffected() != 1 {
		return seal.ErrMoved
	}
	_, err = tx.Exec(ctx, `
		INSERT INTO seal_gap (era, site, begins, ends, accepted_at, checkpoint, why)
		VALUES ($1, $2, least($3::timestamptz, $4::timestamptz), $4::timestamptz, $5, $6, $7)`,
		g.Era(), int16(g.Site), g.Begins, g.Ends, now, g.Head.Checkpoint, g.Why)
	return err
}

// lose records a certificate that is known of from elsewhere: intended, never completed here, and revoked for ever.
func lose(ctx context.Context, tx pgx.Tx, e seal.Evidence, now time.Time) error {
	if _, err := tx.Exec(ctx, `SELECT make_epoch($1, $2)`, int(e.Serial.UID().Site()), int(e.Serial.Epoch())); err != nil {
		return err
	}
	body := e.TBS
	if body == nil {
		body = []byte{}
	}
	tag, err := tx.Exec(ctx, `
		INSERT INTO intent (serial, not_after, authority, scope, profile, tbs)
		SELECT $1, $2, a.id, s.id, 'lost', $4
		FROM   authority a
		CROSS  JOIN scope s
		WHERE  a.name = $3 AND s.path = 'platform'`, e.Serial.Bytes(), e.NotAfter, e.Authority, body)
	if err == nil && tag.RowsAffected() != 1 {
		err = errors.New("its authority is not in the ledger")
	}
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, `
		INSERT INTO outcome (serial, at, signature)
		VALUES ($1, $2, NULL)`, e.Serial.Bytes(), now)
	if err != nil {
		return err
	}
	if e.Revoked == nil {
		e.Revoked = &now
	}
	return again(ctx, tx, e)
}

// again revokes an intent that is there, as of when and for what the evidence says.
func again(ctx context.Context, tx pgx.Tx, e seal.Evidence) error {
	_, err := tx.Exec(ctx, `
		INSERT INTO revocation (serial, revoked_at, authority, scope, reason)
		SELECT serial, date_trunc('second', $2::timestamptz), authority, scope, $3
		FROM   intent
		WHERE  serial = $1
		ON     CONFLICT DO NOTHING`, e.Serial.Bytes(), *e.Revoked, int16(e.Reason))
	return err
}

// renumber lifts the numbers of all lists above any that was used and forgotten: milliseconds since 1970, more than a shard
// ever published. The next list of each is a whole one, not a delta to one that nobody has.
func renumber(ctx context.Context, tx pgx.Tx, now time.Time) error {
	for _, sql := range []string{`
		UPDATE crl_piece p
		SET    number = greatest(p.number, $1)
		FROM   crl c
		WHERE  (p.authority, p.epoch, p.part, p.number) = (c.authority, c.epoch, c.part, c.number)`, `
		UPDATE crl
		SET    number = greatest(number, $1), base = greatest(base, $1), base_at = to_timestamp(0)`,
	} {
		if _, err := tx.Exec(ctx, sql, now.UnixMilli()); err != nil {
			return fmt.Errorf("lifting the numbers of lists: %w", err)
		}
	}
	return nil
}
