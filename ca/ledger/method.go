package ledger

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/postgres"
)

// methodColumns are what method reads.
const methodColumns = `m.id, s.path, m.name, m.kind, m.profile, coalesce(m.workload, ''), m.names, m.subject, coalesce(m.issuer, ''), m.audience, m.claims,
		       m.keys, m.roots, coalesce(m.cluster, ''), m.made_at, m.ended_at`

// AddMethod implements ca.Methods.
func (l *Ledger) AddMethod(ctx context.Context, m ca.Method, f audit.Fact) (ca.Method, error) {
	names := make([]string, 0, len(m.Names))
	for _, n := range m.Names {
		names = append(names, n.String())
	}
	claims, err := json.Marshal(m.Claims)
	if err != nil || m.Claims == nil {
		claims = []byte("{}")
	}
	revoked, err := l.callerRevoked(ctx, f.Who, "$11::bytea")
	if err != nil {
		return ca.Method{}, err
	}
	made, err := once(ctx, l.db, pgx.RowToStructByPos[addedMethod], `
		WITH ask AS (
			SELECT (SELECT id FROM scope WHERE path = $10) AS scope, `+revoked+` AS caller_revoked
		), made AS (
			INSERT INTO enrolment_method (scope, name, kind, profile, workload, names, subject, issuer, audience, claims, keys, roots, cluster, made_at)
			SELECT scope, $12, $13, $14, nullif($15, ''), $16, $17, nullif($18, ''), $19, $20::jsonb, $21, $22, nullif($23, ''), $24
			FROM   ask
			WHERE  scope IS NOT NULL AND NOT caller_revoked
			RETURNING id
		), noted AS (`+audit.Insert+`
			WHERE EXISTS (SELECT FROM made)
		)
		SELECT scope IS NOT NULL, caller_revoked, coalesce((SELECT id FROM made), 0)
		FROM   ask`,
		append(audit.Columns(f), m.Scope.String(), f.Who.Serial.Bytes(), m.Name, string(m.Kind), m.Profile, m.Workload, names, m.Subject, m.Issuer, m.Audience,
			string(claims), m.Keys, m.Roots, m.Cluster, m.MadeAt)...)
	if violates(err, "enrolment_method_stands_once") {
		return ca.Method{}, ca.ErrConflict
	}
	if err != nil {
		return ca.Method{}, explained(err)
	}
	m.ID = made[0].ID
	return m, invited{made[0].Scope, made[0].CallerRevoked}.err()
}

// addedMethod is what became of a method.
type addedMethod struct {
	Scope, CallerRevoked bool
	ID                   int64
}

// violates reports whether err is that a row would break the constraint of that name.
func violates(err error, constraint string) bool {
	e, ok := errors.AsType[*pgconn.PgError](err)
	return ok && e.ConstraintName == constraint
}

// callerRevoked returns the condition that who's certificate is revoked; at is the argument with its serial.
func (l *Ledger) callerRevoked(ctx context.Context, who identity.Caller, at string) (string, error) {
	if who.Serial.IsZero() {
		return at + ` IS NULL`, nil // no serial is octets too
	}
	leaf := leafOf(who.Serial.UID())
	if there, err := l.has(ctx, "revocation", leaf); err != nil || !there {
		return "", cmp.Or(explained(err), ca.ErrCallerRevoked)
	}
	return leaf.isRevoked(at), nil
}

// EndMethod implements ca.Methods.
func (l *Ledger) EndMethod(ctx context.Context, scope identity.Scope, name string, f audit.Fact) (ca.Method, error) {
	revoked, err := l.callerRevoked(ctx, f.Who, "$12::bytea")
	if err != nil {
		return ca.Method{}, err
	}
	ended, err := once(ctx, l.db, method, `
		WITH ended AS (
			UPDATE enrolment_method
			SET    ended_at = greatest(made_at, $13)
			WHERE  scope = (SELECT id FROM scope WHERE path = $10) AND name = $11 AND ended_at IS NULL AND NOT (`+revoked+`)
			RETURNING id, scope, name, kind, profile, workload, names, subject, issuer, audience, claims, keys, roots, cluster, made_at, ended_at
		), noted AS (`+audit.Insert+`
			WHERE EXISTS (SELECT FROM ended)
		)
		SELECT `+methodColumns+`
		FROM   ended m JOIN scope s ON s.id = m.scope`,
		append(audit.Columns(f), scope.String(), name, f.Who.Serial.Bytes(), f.At)...)
	if err != nil {
		return ca.Method{}, explained(err)
	}
	if len(ended) == 0 {
		if !f.Who.Serial.IsZero() {
			if err := l.Stands(ctx, f.Who.Serial); err != nil {
				return ca.Method{}, err
			}
		}
		return ca.Method{}, ca.ErrNotFound
	}
	return ended[0], nil
}

// MethodNamed implements ca.Methods.
func (l *Ledger) MethodNamed(ctx context.Context, scope identity.Scope, name string) (ca.Method, error) {
	// Whoever asks has yet to prove of which scope it is.
	found, err := once(postgres.AsOwner(ctx), l.db, method, `
		SELECT `+methodColumns+`
		FROM   enrolment_method m JOIN scope s ON s.id = m.scope
		WHERE  s.path = $1 AND m.name = $2 AND m.ended_at IS NULL`, scope.String(), name)
	if err != nil {
		return ca.Method{}, explained(err)
	}
	if len(found) == 0 {
		return ca.Method{}, ca.ErrNotFound
	}
	return found[0], nil
}

// MethodsIn implements ca.Methods.
func (l *Ledger) MethodsIn(ctx context.Context, scope identity.Scope, before int64, limit int) ([]ca.Method, error) {
	found, err := once(ctx, l.db, method, `
		SELECT `+methodColumns+`
		FROM   enrolment_method m JOIN scope s ON s.id = m.scope
		WHERE  ($1 = 'platform' OR s.path = $1 OR starts_with(s.path, $1 || '/')) AND ($2 = 0 OR m.id < $2)
		ORDER  BY m.id DESC
		LIMIT  $3`, scope.String(), before, limit)
	return found, explained(err)
}

// method reads methodColumns.
func method(row pgx.CollectableRow) (m ca.Method, err error) {
	var (
		scope, kind string
		names       []string
		claims      []byte
		ended       *time.Time
	)
	if err := row.Scan(&m.ID, &scope, &m.Name, &kind, &m.Profile, &m.Workload, &names, &m.Subject, &m.Issuer, &m.Audience, &claims,
		&m.Keys, &m.Roots, &m.Cluster, &m.MadeAt, &ended); err != nil {
		return m, err
	}
	m.Kind = ca.ProofKind(kind)
	if ended != nil {
		m.EndedAt = *ended
	}
	if m.Scope, err = identity.ParseScope(scope); err != nil {
		return m, err
	}
	if err := json.Unmarshal(claims, &m.Claims); err != nil {
		return m, fmt.Errorf("reading the claims of method %d: %w", m.ID, err)
	}
	for _, s := range names {
		n, err := cert.ParseName(s)
		if err != nil {
			return m, err
		}
		m.Names = append(m.Names, n)
	}
	return m, nil
}
