package store

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"codeberg.org/dataverket/segl/acme"
	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/uid"
)

// accountRow is an account as it is stored.
type accountRow struct {
	ID            []byte
	Scope         string
	KeyID         []byte
	Key           []byte
	Thumbprint    string
	Contact       []string
	TermsAgreed   bool
	CreatedAt     time.Time
	DeactivatedAt *time.Time
	Terms         *string
	Binding       []byte
}

func (r accountRow) account() (acme.Account, error) {
	id, err := ids(uid.Account, r.ID)
	if err != nil {
		return acme.Account{}, err
	}
	scope, err := identity.ParseScope(r.Scope)
	if err != nil {
		return acme.Account{}, err
	}
	key, err := x509.ParsePKIXPublicKey(r.Key)
	if err != nil {
		return acme.Account{}, fmt.Errorf("reading the key of account %s: %w", id[0], err)
	}
	a := acme.Account{
		ID: id[0], Scope: scope, Key: key, KeyID: cert.KeyID(r.KeyID), Thumbprint: r.Thumbprint,
		Contact: r.Contact, TermsAgreed: r.TermsAgreed, Created: r.CreatedAt.UTC(),
	}
	if r.Terms != nil {
		a.Terms = *r.Terms
	}
	if r.Binding != nil {
		if a.Binding, err = uid.FromBytes(r.Binding); err != nil {
			return acme.Account{}, err
		}
	}
	if r.DeactivatedAt != nil {
		a.Deactivated = r.DeactivatedAt.UTC()
	}
	return a, nil
}

const selectAccount = `
	SELECT a.id, s.path, a.key_id, a.key, a.thumbprint, a.contact, a.terms_agreed, a.created_at, a.deactivated_at, a.terms, a.binding
	FROM   acme_account a
	JOIN   scope s ON s.id = a.scope`

func oneAccount(rows pgx.Rows, err error) (acme.Account, error) {
	if err != nil {
		return acme.Account{}, err
	}
	r, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[accountRow])
	if err != nil {
		return acme.Account{}, missing(err)
	}
	return r.account()
}

// Account implements acme.Store.
func (s *Store) Account(ctx context.Context, id uid.UID) (acme.Account, error) {
	return oneAccount(s.db.Query(ctx, selectAccount+`
		WHERE  a.id = $1`, id.Bytes()))
}

// AccountByKey implements acme.Store.
func (s *Store) AccountByKey(ctx context.Context, scope identity.Scope, key cert.KeyID) (acme.Account, error) {
	return oneAccount(s.db.Query(ctx, selectAccount+`
		WHERE  a.key_id = $1 AND s.path = $2`, key[:], scope.String()))
}

// CreateAccount implements acme.Store. The fact is written only with the row.
func (s *Store) CreateAccount(ctx context.Context, a acme.Account, f audit.Fact) (acme.Account, bool, error) {
	spki, err := x509.MarshalPKIXPublicKey(a.Key)
	if err != nil {
		return acme.Account{}, false, err
	}
	contact := a.Contact
	if contact == nil {
		contact = []string{}
	}
	var b pgx.Batch
	b.Queue(`
		WITH made AS (
			INSERT INTO acme_account (id, scope, key_id, key, thumbprint, contact, terms_agreed, created_at, terms)
			SELECT $10::bytea, s.id, $12::bytea, $13::bytea, $14::text, $15::text[], $16::boolean, $17::timestamptz, nullif($18::text, '')
			FROM   scope s
			WHERE  s.path = $11
			ON     CONFLICT ON CONSTRAINT acme_account_key_once DO NOTHING
			RETURNING id
		), noted AS (`+audit.Insert+`
			WHERE EXISTS (SELECT FROM made)
		)
		SELECT id
		FROM   made`,
		append(audit.Columns(f), a.ID.Bytes(), a.Scope.String(), a.KeyID[:], spki, a.Thumbprint, contact, a.TermsAgreed, a.Created, a.Terms)...)
	made, err := s.write(ctx, &b)
	if err != nil {
		return acme.Account{}, false, err
	}
	if made == 1 {
		return a, true, nil
	}
	had, err := s.AccountByKey(ctx, a.Scope, a.KeyID)
	if errors.Is(err, acme.ErrNotFound) {
		return acme.Account{}, false, fmt.Errorf("scope %s: %w", a.Scope, err)
	}
	return had, false, err
}

// ChangeKey implements acme.Store. The unique constraint decides who has the key.
func (s *Store) ChangeKey(ctx context.Context, a acme.Account, old cert.KeyID, f audit.Fact) error {
	spki, err := x509.MarshalPKIXPublicKey(a.Key)
	if err != nil {
		return err
	}
	var b pgx.Batch
	b.Queue(`
		WITH changed AS (
			UPDATE acme_account
			SET    key_id = $12, key = $13, thumbprint = $14
			WHERE  id = $10 AND key_id = $11 AND deactivated_at IS NULL
			RETURNING id
		), noted AS (`+audit.Insert+`
			WHERE EXISTS (SELECT FROM changed)
		)
		SELECT id
		FROM   changed`,
		append(audit.Columns(f), a.ID.Bytes(), old[:], a.KeyID[:], spki, a.Thumbprint)...)
	changed, err := s.write(ctx, &b)
	if e, ok := errors.AsType[*pgconn.PgError](err); ok && e.ConstraintName == "acme_account_key_once" {
		return acme.ErrKeyTaken
	}
	if err == nil && changed != 1 {
		err = acme.ErrNotFound
	}
	return err
}

// UpdateAccount implements acme.Store.
func (s *Store) UpdateAccount(ctx context.Context, a acme.Account, f audit.Fact) error {
	var ended *time.Time
	if !a.Deactivated.IsZero() {
		ended = &a.Deactivated
	}
	var b pgx.Batch
	b.Queue(`
		UPDATE acme_account
		SET    contact = $2, deactivated_at = coalesce(deactivated_at, $3)
		WHERE  id = $1`,
		a.ID.Bytes(), append([]string{}, a.Contact...), ended)
	if ended != nil { // RFC 8555 §7.3.6: "the server SHOULD cancel any pending operations authorized by the account's key"
		b.Queue(`
			DELETE FROM acme_attempt
			WHERE  account = $1`, a.ID.Bytes())
	}
	queue(&b, f)
	changed, err := s.write(ctx, &b)
	if err == nil && changed != 1 {
		err = acme.ErrNotFound
	}
	return err
}
