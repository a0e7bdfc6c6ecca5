package store

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"codeberg.org/dataverket/segl/acme"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/uid"
)

func finalization(at time.Time, spki []byte) (*acme.Finalization, error) {
	key, err := x509.ParsePKIXPublicKey(spki)
	if err != nil {
		return nil, err
	}
	return &acme.Finalization{At: at.UTC(), Key: key, SPKI: spki, KeyID: sha256.Sum256(spki)}, nil
}

// An examination is a finalization's question.
type examination struct {
	order  uid.UID
	key    cert.KeyID
	claims []uid.UID
	found  acme.Examination // filled in
}

// Examine implements acme.Store.
func (s *Store) Examine(ctx context.Context, order uid.UID, key cert.KeyID, claims []uid.UID) (acme.Examination, error) {
	e := &examination{order: order, key: key, claims: claims}
	if err := s.finals.Do(ctx, e); err != nil {
		return acme.Examination{}, err
	}
	return e.found, nil
}

// examine answers questions that came together: which keys are accounts', and, by week, which authorizations were given up and
// which orders have failed.
func (s *Store) examine(ctx context.Context, b *pgx.Batch, all []*examination) func(pgx.BatchResults) error {
	keys := make([][]byte, len(all))
	weeks, orders := make(map[string][][]byte), make(map[string][][]byte)
	for i, e := range all {
		keys[i] = e.key[:]
		week := s.week(ctx, "acme_order", e.order)
		orders[week] = append(orders[week], e.order.Bytes())
		for _, id := range e.claims {
			week := s.week(ctx, "acme_authorization", id)
			weeks[week] = append(weeks[week], id.Bytes())
		}
	}
	asks, args := []string{`
		SELECT a.key_id
		FROM   unnest($1::bytea[]) AS n (key_id)
		CROSS  JOIN LATERAL (
		           SELECT d.key_id
		           FROM   account_key d -- of any scope
		           WHERE  d.key_id = n.key_id
		           LIMIT  1
		       ) a`}, []any{keys}
	for week, ids := range weeks {
		args = append(args, ids)
		asks = append(asks, `
			SELECT a.id
			FROM   unnest($`+strconv.Itoa(len(args))+`::bytea[]) AS n (id)
			CROSS  JOIN LATERAL (
			           SELECT d.id
			           FROM   acme_authorization`+week+` d
			           WHERE  d.id = n.id AND d.deactivated_at IS NOT NULL
			           LIMIT  1
			       ) a`)
	}
	for week, ids := range orders {
		args = append(args, ids)
		asks = append(asks, `
			SELECT a.order_id
			FROM   unnest($`+strconv.Itoa(len(args))+`::bytea[]) AS n (id)
			CROSS  JOIN LATERAL (
			           SELECT d.order_id
			           FROM   acme_failure`+week+` d
			           WHERE  d.order_id = n.id
			           LIMIT  1
			       ) a`)
	}
	b.Queue(strings.Join(asks, "\n\t\tUNION  ALL"), args...)
	return func(results pgx.BatchResults) error {
		found, err := readAll(results)
		if err != nil {
			return err
		}
		for _, e := range all {
			e.found.KeyOfAccount = found[string(e.key[:])]
			e.found.Failed = found[string(e.order.Bytes())]
			e.found.Deactivated = slices.ContainsFunc(e.claims, func(id uid.UID) bool { return found[string(id.Bytes())] })
		}
		return nil
	}
}

// readAll reads the one column of a statement.
func readAll(results pgx.BatchResults) (map[string]bool, error) {
	rows, err := results.Query()
	if err != nil {
		return nil, err
	}
	found := make(map[string]bool)
	var raw []byte
	_, err = pgx.ForEachRow(rows, []any{&raw}, func() error {
		found[string(raw)] = true
		return nil
	})
	return found, err
}

// Finalize implements acme.Store.
func (s *Store) Finalize(ctx context.Context, order uid.UID, f acme.Finalization) (acme.FinalizeResult, error) {
	var b pgx.Batch
	b.Queue(`
		WITH taken AS (
			SELECT EXISTS (SELECT FROM account_key WHERE key_id = $4) AS yes
		), claimed AS (
			INSERT INTO acme_finalization (order_id, at, key)
			SELECT $1::bytea, $2::timestamptz, $3::bytea
			FROM   taken
			WHERE  NOT yes
			ON     CONFLICT DO NOTHING
			RETURNING order_id
		)
		SELECT EXISTS (SELECT FROM claimed), yes
		FROM   taken`,
		order.Bytes(), f.At, f.SPKI, f.KeyID[:])
	results := s.db.SendBatch(ctx, &b)
	var did acme.FinalizeResult
	err := results.QueryRow().Scan(&did.Claimed, &did.KeyOfAccount)
	return did, errors.Join(err, results.Close())
}

// Fail implements acme.Store.
func (s *Store) Fail(ctx context.Context, order uid.UID, at time.Time, p *acme.Problem) error {
	raw, err := json.Marshal(p)
	if err != nil {
		return err
	}
	_, err = s.db.Exec(ctx, `
		INSERT INTO acme_failure (order_id, at, problem)
		VALUES ($1, $2, $3)
		ON     CONFLICT DO NOTHING`,
		order.Bytes(), at, raw)
	return err
}

// Unissued implements acme.Store. It reads from where everything older was settled, and moves that mark, page by page: an
// order that waits long for its permission keeps none behind it.
func (s *Store) Unissued(ctx context.Context, before time.Time, page int, each func(acme.Order) error) error {
	var unread error
	after, last := time.Time{}, []byte{}
	for {
		found, err := s.unissued(ctx, after, last, before, page)
		if err != nil {
			return errors.Join(unread, err)
		}
		if after.IsZero() {
			settled := before
			if len(found) > 0 {
				settled = found[0].At
			}
			if err := s.settle(ctx, settled); err != nil {
				return err
			}
		}
		broken, err := s.give(ctx, found, each)
		if unread == nil { // one is as good as many, and many would be a long word
			unread = broken
		}
		if err != nil || len(found) < page {
			return errors.Join(unread, err)
		}
		after, last = found[page-1].At, found[page-1].Order
	}
}

// give reads orders and gives them to each. It returns what kept one from being read apart from other errors.
func (s *Store) give(ctx context.Context, found []claimed, each func(acme.Order) error) (broken, err error) {
	raw := make([][]byte, len(found))
	for i, c := range found {
		raw[i] = c.Order
	}
	list, err := ids(uid.Order, raw...)
	if err != nil {
		return nil, err
	}
	orders, unread, err := s.readEach(ctx, list)
	if err != nil {
		return nil, err
	}
	for i, o := range orders {
		if unread[i] != nil {
			broken = fmt.Errorf("reading order %s: %w", list[i], unread[i])
			continue
		}
		if err := each(o); err != nil {
			return broken, err
		}
	}
	return broken, nil
}

// claimed is an order that was finalized, and when.
type claimed struct {
	Order []byte
	At    time.Time
}

// unissued returns at most limit orders without an outcome, of those claimed after one of them, the oldest first.
func (s *Store) unissued(ctx context.Context, after time.Time, last []byte, before time.Time, limit int) ([]claimed, error) {
	rows, err := s.db.Query(ctx, `
		SELECT f.order_id, f.at
		FROM   acme_finalization f
		LEFT   JOIN LATERAL (
		           SELECT true AS yes
		           FROM   acme_failure d
		           WHERE  d.order_id = f.order_id
		           LIMIT  1
		       ) x ON true
		LEFT   JOIN LATERAL (
		           SELECT d.serial
		           FROM   origin d
		           WHERE  d.origin = f.order_id
		           ORDER  BY d.attempt DESC
		           LIMIT  1
		       ) g ON true
		LEFT   JOIN LATERAL (
		           SELECT true AS yes
		           FROM   outcome d
		           WHERE  d.serial = g.serial AND d.signature IS NOT NULL
		           LIMIT  1
		       ) u ON true
		WHERE  f.at >= coalesce((SELECT before FROM acme_settled), '-infinity')
		AND    f.at >= $3
		AND    f.at < $1
		AND    (f.at, f.order_id) > ($3, $4)
		AND    x.yes IS NULL
		AND    u.yes IS NULL
		ORDER  BY f.at, f.order_id
		LIMIT  $2`, before, limit, after, last)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[claimed])
}

// settle moves the mark below which Unissued need not look.
func (s *Store) settle(ctx context.Context, before time.Time) error {
	_, err := s.db.Exec(ctx, `
		INSERT INTO acme_settled AS a (before)
		VALUES ($1)
		ON     CONFLICT ON CONSTRAINT acme_settled_pk DO UPDATE
		SET    before = excluded.before
		WHERE  a.before < excluded.before`, before)
	return err
}
