package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"codeberg.org/dataverket/segl/acme"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/uid"
)

// CreateOrder implements acme.Store.
func (s *Store) CreateOrder(ctx context.Context, o acme.Order) error { return s.orders.do(ctx, o) }

// createOrders records orders that came together: one row each, and their fresh authorizations in one statement.
func (s *Store) createOrders(ctx context.Context, all []acme.Order) error {
	var b pgx.Batch
	var c claims
	for _, o := range all {
		c.add(o.Authorizations)
	}
	c.queue(&b)
	for _, o := range all {
		n := len(o.Names)
		names, authz := make([]string, n), make([][]byte, n)
		for i, a := range o.Authorizations {
			names[i], authz[i] = o.Names[i].String(), a.ID.Bytes()
		}
		b.Queue(`
			INSERT INTO acme_order (id, account, expires_at, profile, names, authorizations, not_before, not_after, replaces)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, nullif($9, ''))`,
			o.ID.Bytes(), o.Account.Bytes(), o.Expires, o.Profile, names, authz, orNull(o.NotBefore), orNull(o.NotAfter), replaces(o))
	}
	_, err := s.write(ctx, &b)
	return err
}

// orNull is NULL for the zero time.
func orNull(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// OrderAccount implements acme.Store.
func (s *Store) OrderAccount(ctx context.Context, id uid.UID) (uid.UID, error) {
	var raw []byte
	err := s.db.QueryRow(ctx, `
		SELECT account
		FROM   acme_order
		WHERE  id = $1`, id.Bytes()).Scan(&raw)
	if err != nil {
		return uid.UID{}, missing(err)
	}
	account, err := ids(uid.Account, raw)
	if err != nil {
		return uid.UID{}, err
	}
	return account[0], nil
}

// orderRow is an order with what became of it.
type orderRow struct {
	ID, Account []byte
	Scope       string
	ExpiresAt   time.Time
	Profile     string
	Names       []string
	NotBefore   *time.Time
	NotAfter    *time.Time
	Replaces    *string
	Orphan      bool
	FinalizedAt *time.Time
	Key         []byte
	Problem     []byte
	Serial      []byte
}

// selectOrder reads an order with its fate. It names the identifier everywhere, so that one partition of each table is
// opened. One attempt at most of an origin was signed, the last.
const selectOrder = `
	SELECT o.id, o.account, s.path, o.expires_at, o.profile, o.names, o.not_before, o.not_after, o.replaces, a.ended, f.at, f.key, x.problem, u.serial
	FROM   acme_order o
	CROSS  JOIN LATERAL (
	           SELECT d.scope, d.deactivated_at IS NOT NULL AS ended
	           FROM   acme_account d
	           WHERE  d.id = o.account
	           LIMIT  1
	       ) a
	JOIN   scope s ON s.id = a.scope
	LEFT   JOIN LATERAL (
	           SELECT d.at, d.key
	           FROM   acme_finalization d
	           WHERE  d.order_id = $1
	           LIMIT  1
	       ) f ON true
	LEFT   JOIN LATERAL (
	           SELECT d.problem
	           FROM   acme_failure d
	           WHERE  d.order_id = $1
	           LIMIT  1
	       ) x ON true
	LEFT   JOIN LATERAL (
	           SELECT d.serial
	           FROM   origin d
	           WHERE  d.origin = $1
	           ORDER  BY d.attempt DESC
	           LIMIT  1
	       ) g ON true
	LEFT   JOIN LATERAL (
	           SELECT d.serial
	           FROM   outcome d
	           WHERE  d.serial = g.serial AND d.signature IS NOT NULL
	           LIMIT  1
	       ) u ON true
	WHERE  o.id = $1`

func (r orderRow) order() (acme.Order, error) {
	id, err := uid.FromBytes(r.ID)
	if err != nil {
		return acme.Order{}, err
	}
	account, err := ids(uid.Account, r.Account)
	if err != nil {
		return acme.Order{}, err
	}
	scope, err := identity.ParseScope(r.Scope)
	if err != nil {
		return acme.Order{}, err
	}
	o := acme.Order{ID: id, Account: account[0], Scope: scope, Profile: r.Profile, Expires: r.ExpiresAt.UTC()}
	o.NotBefore, o.NotAfter, o.Orphan = orZero(r.NotBefore), orZero(r.NotAfter), r.Orphan
	if r.Replaces != nil {
		if o.Replaces, err = acme.ParseCertID(*r.Replaces); err != nil {
			return acme.Order{}, fmt.Errorf("reading order %s: %w", id, err)
		}
	}
	for _, s := range r.Names {
		n, err := cert.ParseName(s)
		if err != nil {
			return acme.Order{}, fmt.Errorf("reading order %s: %w", id, err)
		}
		o.Names = append(o.Names, n)
	}
	return o, r.outcome(&o)
}

func orZero(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.UTC()
}

func (r orderRow) outcome(o *acme.Order) (err error) {
	if r.FinalizedAt != nil {
		if o.Finalization, err = finalization(*r.FinalizedAt, r.Key); err != nil {
			return fmt.Errorf("reading order %s: %w", o.ID, err)
		}
	}
	if o.Failure, err = readProblem(r.Problem); err != nil {
		return fmt.Errorf("reading order %s: %w", o.ID, err)
	}
	if r.Serial != nil {
		o.Certificate, err = cert.SerialFromBytes(r.Serial)
	}
	return err
}

func readProblem(raw []byte) (*acme.Problem, error) {
	if raw == nil {
		return nil, nil //nolint:nilnil // no problem is no problem
	}
	var p acme.Problem
	return &p, json.Unmarshal(raw, &p)
}

// Order implements acme.Store.
func (s *Store) Order(ctx context.Context, id uid.UID) (acme.Order, error) {
	all, err := s.read(ctx, []uid.UID{id})
	if err != nil {
		return acme.Order{}, err
	}
	return all[0], nil
}

// read reads orders in one round trip.
func (s *Store) read(ctx context.Context, list []uid.UID) ([]acme.Order, error) {
	var b pgx.Batch
	for _, id := range list {
		queueOrder(&b, id)
	}
	results := s.db.SendBatch(ctx, &b)
	all := make([]acme.Order, len(list))
	var err error
	for i := range all {
		if all[i], err = readOrder(results); err != nil {
			break
		}
	}
	return all, errors.Join(err, results.Close())
}

func queueOrder(b *pgx.Batch, id uid.UID) {
	at := id.Time()
	b.Queue(selectOrder, id.Bytes())
	b.Queue(`
		SELECT `+authorizationColumns+`
		FROM   acme_order o
		CROSS  JOIN LATERAL unnest(o.authorizations) WITH ORDINALITY AS n (id, position)
		CROSS  JOIN LATERAL (
		           SELECT d.id, d.account, d.expires_at, d.name, d.token, d.subdomains, d.deactivated_at
		           FROM   acme_authorization d
		           WHERE  d.id = n.id AND d.id >= $2 AND d.id < $3
		           LIMIT  1
		       ) c
		LEFT   JOIN LATERAL (
		           SELECT d.method, d.asked_at, d.problem, d.next_try_at
		           FROM   acme_attempt d
		           WHERE  d.authorization_id = n.id
		           LIMIT  1
		       ) t ON true
		LEFT   JOIN LATERAL (
		           SELECT d.method, d.at, d.evidence, d.problem
		           FROM   acme_validation d
		           WHERE  d.authorization_id = n.id AND d.authorization_id >= $2 AND d.authorization_id < $3
		           LIMIT  1
		       ) v ON true
		WHERE  o.id = $1
		ORDER  BY n.position`,
		id.Bytes(),
		uid.Floor(uid.Authorization, id.Site(), at.Add(-oldestAuthorization)).Bytes(),
		uid.Floor(uid.Authorization, id.Site(), at.Add(time.Second)).Bytes())
}

func readOrder(results pgx.BatchResults) (acme.Order, error) {
	rows, err := results.Query()
	if err != nil {
		return acme.Order{}, err
	}
	r, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[orderRow])
	if err != nil {
		return acme.Order{}, missing(err)
	}
	o, err := r.order()
	if err != nil {
		return acme.Order{}, err
	}
	if rows, err = results.Query(); err != nil {
		return acme.Order{}, err
	}
	o.Authorizations, err = pgx.CollectRows(rows, toAuthorization)
	if err == nil && len(o.Authorizations) != len(o.Names) {
		err = fmt.Errorf("order %s has %d of %d authorizations", o.ID, len(o.Authorizations), len(o.Names))
	}
	return o, err
}

// oldestAuthorization bounds how much older than an order its authorizations may be, so that only those partitions are
// opened.
const oldestAuthorization = 90 * 24 * time.Hour
