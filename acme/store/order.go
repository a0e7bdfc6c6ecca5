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
func (s *Store) CreateOrder(ctx context.Context, o acme.Order) error { return s.orders.Do(ctx, o) }

// orderColumns are orders of one week about to be recorded, by column. names and authorizations are those of all of them;
// first and last say which are whose.
type orderColumns struct {
	id, account, authorizations [][]byte
	expires                     []time.Time
	profile, names, replaces    []string
	autoRenewal                 []string
	notBefore, notAfter         []*time.Time
	first, last                 []int32
}

func (c *orderColumns) add(o acme.Order) {
	c.id, c.account, c.expires = append(c.id, o.ID.Bytes()), append(c.account, o.Account.Bytes()), append(c.expires, o.Expires)
	c.profile, c.replaces = append(c.profile, o.Profile), append(c.replaces, replaces(o))
	c.autoRenewal = append(c.autoRenewal, renewal(o))
	c.notBefore, c.notAfter = append(c.notBefore, orNull(o.NotBefore)), append(c.notAfter, orNull(o.NotAfter))
	c.first = append(c.first, int32(len(c.names)+1)) //nolint:gosec // at most groupSize orders of cert.MaxNames
	for i, a := range o.Authorizations {
		c.names, c.authorizations = append(c.names, o.Names[i].String()), append(c.authorizations, a.ID.Bytes())
	}
	c.last = append(c.last, int32(len(c.names))) //nolint:gosec // see above
}

func (c *orderColumns) queue(b *pgx.Batch, week string) {
	b.Queue(`
		INSERT INTO acme_order`+week+` (id, account, expires_at, profile, names, authorizations, not_before, not_after, replaces, auto_renewal)
		SELECT o.id, o.account, o.expires_at, o.profile, ($10::text[])[o.first:o.last], ($11::bytea[])[o.first:o.last],
		       o.not_before, o.not_after, nullif(o.replaces, ''), nullif(o.auto_renewal, '')::jsonb
		FROM   unnest($1::bytea[], $2::bytea[], $3::timestamptz[], $4::text[], $5::timestamptz[], $6::timestamptz[], $7::text[], $8::integer[], $9::integer[], $12::text[])
		       AS o (id, account, expires_at, profile, not_before, not_after, replaces, first, last, auto_renewal)`,
		c.id, c.account, c.expires, c.profile, c.notBefore, c.notAfter, c.replaces, c.first, c.last, c.names, c.authorizations, c.autoRenewal)
}

// createOrders records orders that came together, with their fresh authorizations: a statement each for each week.
func (s *Store) createOrders(ctx context.Context, b *pgx.Batch, all []acme.Order) func(pgx.BatchResults) error {
	before := b.Len()
	var fresh []acme.Authorization
	weeks := make(map[string]*orderColumns)
	for _, o := range all {
		fresh = append(fresh, o.Authorizations...)
		week := s.week(ctx, "acme_order", o.ID)
		if weeks[week] == nil {
			weeks[week] = &orderColumns{}
		}
		weeks[week].add(o)
	}
	s.queueClaims(ctx, b, fresh)
	for week, c := range weeks {
		c.queue(b, week)
	}
	return done(b.Len() - before)
}

// done reads statements that only have to succeed.
func done(statements int) func(pgx.BatchResults) error {
	return func(results pgx.BatchResults) error {
		for range statements {
			if _, err := results.Exec(); err != nil {
				return err
			}
		}
		return nil
	}
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
	AutoRenewal []byte
	Orphan      bool
	FinalizedAt *time.Time
	Key         []byte
	Problem     []byte
	Serial      []byte
}

// selectOrder reads an order with its fate. It names the identifier everywhere, so that one partition of each table is
// opened. One attempt at most of an origin was signed, the last.
const selectOrder = `
	SELECT o.id, o.account, s.path, o.expires_at, o.profile, o.names, o.not_before, o.not_after, o.replaces, o.auto_renewal, a.ended, f.at, f.key, x.problem, u.serial
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
	if r.AutoRenewal != nil {
		if err := json.Unmarshal(r.AutoRenewal, &o.AutoRenewal); err != nil {
			return acme.Order{}, fmt.Errorf("reading order %s: %w", id, err)
		}
	}
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

// read reads orders in one round trip. All of them must be there.
func (s *Store) read(ctx context.Context, list []uid.UID) ([]acme.Order, error) {
	all, unread, err := s.readEach(ctx, list)
	if err != nil {
		return nil, err
	}
	for _, err := range unread {
		if err != nil {
			return nil, err
		}
	}
	return all, nil
}

// readEach reads orders in one round trip, and says of each what kept it from being read.
func (s *Store) readEach(ctx context.Context, list []uid.UID) (all []acme.Order, unread []error, err error) {
	var b pgx.Batch
	for _, id := range list {
		queueOrder(&b, id)
	}
	results := s.db.SendBatch(ctx, &b)
	all, unread = make([]acme.Order, len(list)), make([]error, len(list))
	for i := range all {
		if all[i], unread[i], err = readOrder(results); err != nil {
			break
		}
	}
	return all, unread, errors.Join(err, results.Close())
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
		uid.Floor(uid.Authorization, id.Site(), at.Add(clockSpread)).Bytes()) // another replica may have made them, whose clock is ahead
}

// readOrder reads what queueOrder asked. An order that is not there or not whole is unread; an error is the trip's.
func readOrder(results pgx.BatchResults) (o acme.Order, unread, err error) {
	rows, err := results.Query()
	if err != nil {
		return acme.Order{}, nil, err
	}
	r, unread := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[orderRow])
	if unread = missing(unread); unread == nil {
		o, unread = r.order()
	}
	if rows, err = results.Query(); err != nil { // read in any case: the next order's comes after it
		return acme.Order{}, nil, errors.Join(unread, err)
	}
	all, err := pgx.CollectRows(rows, toAuthorization)
	switch {
	case unread != nil:
	case err != nil:
		unread = err
	case len(all) != len(o.Names):
		unread = fmt.Errorf("order %s has %d of %d authorizations", o.ID, len(all), len(o.Names))
	}
	o.Authorizations = all
	return o, unread, nil
}

// oldestAuthorization bounds how much older than an order its authorizations may be, so that only those partitions are
// opened.
const oldestAuthorization = 90 * 24 * time.Hour
