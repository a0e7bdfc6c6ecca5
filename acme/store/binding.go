package store

import (
	"context"
	"crypto/x509"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"codeberg.org/dataverket/segl/acme"
	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/postgres"
	"codeberg.org/dataverket/segl/internal/uid"
)

// bindingRow is an external account key as it is stored.
type bindingRow struct {
	ID              []byte
	Scope           string
	Label           string
	Names, Approved []string
	Uses            *int
	Used            int
	MadeAt          time.Time
	ExpiresAt       *time.Time
	RevokedAt       *time.Time
	Sealed          []byte
}

func (r bindingRow) binding() (acme.Binding, error) {
	id, err := ids(uid.Binding, r.ID)
	if err != nil {
		return acme.Binding{}, err
	}
	scope, err := identity.ParseScope(r.Scope)
	if err != nil {
		return acme.Binding{}, err
	}
	b := acme.Binding{ID: id[0], Scope: scope, Label: r.Label, Names: r.Names, Approved: r.Approved, Used: r.Used, Made: r.MadeAt.UTC()}
	if r.Uses != nil {
		b.Uses = *r.Uses
	}
	if r.ExpiresAt != nil {
		b.Expires = r.ExpiresAt.UTC()
	}
	if r.RevokedAt != nil {
		b.Revoked = r.RevokedAt.UTC()
	}
	return b, nil
}

const selectBinding = `
	SELECT b.id, s.path, b.label, b.names, b.approved, b.uses, b.used, b.made_at, b.expires_at, b.revoked_at, b.sealed
	FROM   acme_binding b
	JOIN   scope s ON s.id = b.scope`

// CreateBinding implements acme.Bindings.
func (s *Store) CreateBinding(ctx context.Context, k acme.Binding, sealed []byte, f audit.Fact) error {
	return s.noted(ctx, f, `
		INSERT INTO acme_binding (id, scope, label, sealed, names, approved, uses, made_at, expires_at)
		SELECT $1, s.id, $3, $4, $5, $6, nullif($7::integer, 0), $8, $9
		FROM   scope s
		WHERE  s.path = $2`,
		k.ID.Bytes(), k.Scope.String(), k.Label, sealed, k.Names, append([]string{}, k.Approved...), k.Uses, k.Made, orNull(k.Expires))
}

// Binding implements acme.Bindings.
func (s *Store) Binding(ctx context.Context, id uid.UID) (acme.Binding, []byte, error) {
	rows, err := s.db.Query(ctx, selectBinding+`
		WHERE  b.id = $1`, id.Bytes())
	if err != nil {
		return acme.Binding{}, nil, err
	}
	r, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[bindingRow])
	if err != nil {
		return acme.Binding{}, nil, missing(err)
	}
	b, err := r.binding()
	return b, r.Sealed, err
}

// ListBindings implements acme.Bindings.
func (s *Store) ListBindings(ctx context.Context, scope identity.Scope, after uid.UID, limit int) ([]acme.Binding, error) {
	rows, err := s.db.Query(ctx, selectBinding+`
		WHERE  s.path = $1 AND b.id > $2
		ORDER  BY b.id
		LIMIT  $3`, scope.String(), after.Bytes(), limit)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (acme.Binding, error) {
		r, err := pgx.RowToStructByPos[bindingRow](row)
		if err != nil {
			return acme.Binding{}, err
		}
		return r.binding()
	})
}

// RevokeBinding implements acme.Bindings.
func (s *Store) RevokeBinding(ctx context.Context, id uid.UID, at time.Time, f audit.Fact) (bool, error) {
	var b pgx.Batch
	b.Queue(`
		WITH ended AS (
			UPDATE acme_binding
			SET    revoked_at = $11::timestamptz
			WHERE  id = $10::bytea AND revoked_at IS NULL
			RETURNING id
		), noted AS (`+audit.Insert+`
			WHERE EXISTS (SELECT FROM ended)
		)
		SELECT id
		FROM   ended`,
		append(audit.Columns(f), id.Bytes(), at)...)
	ended, err := s.write(ctx, &b)
	return ended == 1, err
}

// BindAccount implements acme.Bindings. The key's row is taken first: of uses that come at once each sees those before it.
func (s *Store) BindAccount(ctx context.Context, a acme.Account, facts ...audit.Fact) (acme.Account, bool, error) {
	err := postgres.Tx(ctx, s.db, func(tx pgx.Tx) error { return bindAccount(ctx, tx, a, facts) })
	if err == nil {
		return a, true, nil
	}
	if !errors.Is(err, acme.ErrSpent) && !errors.Is(err, errHasAccount) {
		return acme.Account{}, false, err
	}
	had, herr := s.AccountByKey(ctx, a.Scope, a.KeyID)
	if errors.Is(herr, acme.ErrNotFound) {
		return acme.Account{}, false, err
	}
	return had, false, herr
}

var errHasAccount = errors.New("the scope has an account of that key")

func bindAccount(ctx context.Context, tx pgx.Tx, a acme.Account, facts []audit.Fact) error {
	tag, err := tx.Exec(ctx, `
		UPDATE acme_binding
		SET    used = used + 1
		WHERE  id = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > $2) AND (uses IS NULL OR used < uses)`,
		a.Binding.Bytes(), a.Created)
	if err != nil {
		return err
	}
	if tag.RowsAffected() != 1 {
		return acme.ErrSpent
	}
	spki, err := x509.MarshalPKIXPublicKey(a.Key)
	if err != nil {
		return err
	}
	tag, err = tx.Exec(ctx, `
		INSERT INTO acme_account (id, scope, key_id, key, thumbprint, contact, terms_agreed, created_at, terms, binding)
		SELECT $1, s.id, $3, $4, $5, $6, $7, $8, nullif($9, ''), $10
		FROM   scope s
		WHERE  s.path = $2
		ON     CONFLICT ON CONSTRAINT acme_account_key_once DO NOTHING`,
		a.ID.Bytes(), a.Scope.String(), a.KeyID[:], spki, a.Thumbprint, append([]string{}, a.Contact...), a.TermsAgreed, a.Created, a.Terms, a.Binding.Bytes())
	if err != nil {
		return err
	}
	if tag.RowsAffected() != 1 {
		return errHasAccount
	}
	_, err = tx.Exec(ctx, audit.Insert, audit.Columns(facts...)...)
	return err
}

// Approve implements acme.Bindings.
func (s *Store) Approve(ctx context.Context, all []uid.UID, v acme.Validation, facts ...audit.Fact) error {
	raw := make([][]byte, len(all))
	for i, id := range all {
		raw[i] = id.Bytes()
	}
	var b pgx.Batch
	b.Queue(`
		INSERT INTO acme_validation (authorization_id, at, method, evidence)
		SELECT n.id, $2, $3, $4
		FROM   unnest($1::bytea[]) AS n (id)
		ON     CONFLICT DO NOTHING`, raw, v.At, string(v.Method), v.Evidence)
	queue(&b, facts...)
	_, err := s.write(ctx, &b)
	return err
}

// Agree implements acme.Agreements.
func (s *Store) Agree(ctx context.Context, account uid.UID, url string, f audit.Fact) error {
	return s.noted(ctx, f, `
		UPDATE acme_account
		SET    terms = $2, terms_agreed = true
		WHERE  id = $1`, account.Bytes(), url)
}
