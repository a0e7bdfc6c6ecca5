package ledger

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/postgres"
	"codeberg.org/dataverket/segl/internal/uid"
)

// AddAuthority implements ca.Ledger.
func (l *Ledger) AddAuthority(ctx context.Context, a ca.AuthorityRow, f audit.Fact) error {
	var parent *int
	if a.Parent != 0 {
		parent = &a.Parent
	}
	err := postgres.Tx(ctx, l.db, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `
			INSERT INTO authority (name, purpose, site, parent, certificate, key, created_at, activated_at, scope)
			SELECT $1, $2, $3, $4, $5, nullif($6, ''), $7, $8, s.id
			FROM   (SELECT) AS always
			LEFT   JOIN scope s ON s.path = $9 AND $9 <> 'platform'
			WHERE  s.id IS NOT NULL OR $9 = 'platform'`,
			a.Name, string(a.Purpose), int16(a.Site), parent, a.Certificate, a.Key, a.CreatedAt, moment(a.ActivatedAt), scopeOf(a.Scope))
		if err == nil && tag.RowsAffected() != 1 {
			err = ca.ErrNotFound // its scope
		}
		if err != nil {
			return err
		}
		return note(ctx, tx, f, AuthoritiesChannel)
	})
	switch postgres.Violated(err) {
	case "authority_name_once", "authority_key_once", "authority_active_once":
		return ca.ErrConflict
	}
	return err
}

// scopeOf is the path of the scope that an authority is of.
func scopeOf(s identity.Scope) string {
	if s.IsZero() {
		return identity.Platform.String()
	}
	return s.String()
}

// Authorities implements ca.Ledger.
func (l *Ledger) Authorities(ctx context.Context) ([]ca.AuthorityRow, error) {
	rows, err := l.db.Query(postgres.AsOwner(ctx), `
		SELECT a.id, a.name, a.purpose, a.site, coalesce(a.parent, 0), a.certificate, coalesce(a.key, ''), a.created_at, a.activated_at, a.retiring_at,
		       a.retired_at, coalesce(s.path, 'platform')
		FROM   authority a
		LEFT   JOIN scope s ON s.id = a.scope
		ORDER  BY a.id`)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, authority)
}

// AddEnrolment implements ca.Ledger.
func (l *Ledger) AddEnrolment(ctx context.Context, e ca.Enrolment, f audit.Fact) error {
	names := make([]string, 0, len(e.Names))
	for _, n := range e.Names {
		names = append(names, n.String())
	}
	callerRevoked := `$11::bytea IS NULL`
	if !f.Who.Serial.IsZero() {
		at := leafOf(f.Who.Serial.UID())
		if there, err := l.has(ctx, "revocation", at); err != nil || !there {
			return cmp.Or(explained(err), ca.ErrCallerRevoked)
		}
		callerRevoked = at.isRevoked("$11::bytea")
	}
	verdicts, err := once(ctx, l.db, pgx.RowToStructByPos[invited], `
		WITH ask AS (
			SELECT (SELECT id FROM scope WHERE path = $10) AS scope, `+callerRevoked+` AS caller_revoked
		), made AS (
			INSERT INTO enrolment (token, hash, scope, profile, workload, names, made_at, expires_at)
			SELECT $12, $13, scope, $14, $15, $16, $17, $18
			FROM   ask
			WHERE  scope IS NOT NULL AND NOT caller_revoked
			RETURNING token
		), noted AS (`+audit.Insert+`
			WHERE EXISTS (SELECT FROM made)
		)
		SELECT scope IS NOT NULL, caller_revoked
		FROM   ask`,
		append(audit.Columns(f), e.Scope.String(), f.Who.Serial.Bytes(), e.Token.Bytes(), e.Hash[:], e.Profile, e.ID.String(), names, e.MadeAt, e.Expires)...)
	if repeated(err) {
		return ca.ErrConflict // a proof that is being used elsewhere: of its leaf, the name is the leaf's own
	}
	if err != nil {
		return explained(err)
	}
	return verdicts[0].err()
}

// invited is what became of a token.
type invited struct{ Scope, CallerRevoked bool }

func (v invited) err() error {
	switch {
	case !v.Scope:
		return ca.ErrNotFound
	case v.CallerRevoked:
		return ca.ErrCallerRevoked
	}
	return nil
}

// Enrolment implements ca.Ledger.
func (l *Ledger) Enrolment(ctx context.Context, token uid.UID) (ca.Enrolment, error) {
	var (
		e         = ca.Enrolment{Token: token}
		hash      []byte
		scope, id string
		names     []string
	)
	// Who has it is of a scope that nobody knows before it was read.
	err := l.db.QueryRow(postgres.AsOwner(ctx), `
		SELECT e.hash, s.path, e.profile, e.workload, e.names, e.made_at, e.expires_at
		FROM   enrolment e JOIN scope s ON s.id = e.scope
		WHERE  e.token = $1`, token.Bytes()).
		Scan(&hash, &scope, &e.Profile, &id, &names, &e.MadeAt, &e.Expires)
	if err != nil {
		return ca.Enrolment{}, missing(err)
	}
	e.Hash = [32]byte(hash)
	if e.Scope, err = identity.ParseScope(scope); err != nil {
		return ca.Enrolment{}, err
	}
	if e.ID, err = identity.ParseID(id); err != nil {
		return ca.Enrolment{}, err
	}
	for _, s := range names {
		n, err := cert.ParseName(s)
		if err != nil {
			return ca.Enrolment{}, err
		}
		e.Names = append(e.Names, n)
	}
	return e, nil
}

// epochsAhead is how many epochs beyond the present have their partitions.
const epochsAhead = 4

// MakeEpochs makes the partitions of the epoch before now (intents begun just before it ended), of now's, and of
// those ahead. It is safe to repeat and to run on several replicas. It returns how many tables it made.
func (l *Ledger) MakeEpochs(ctx context.Context, now time.Time) (int, error) {
	made := 0
	err := postgres.Tx(ctx, l.db, func(tx pgx.Tx) error {
		// Two replicas that make the same table at once would collide.
		if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock(hashtext('segl make_epoch'))`); err != nil {
			return err
		}
		return tx.QueryRow(ctx, `
			SELECT coalesce(sum(make_epoch($1, e)), 0)
			FROM   generate_series($2::integer, $3::integer) e`,
			int(l.site), int(uid.EpochOf(now))-1, int(uid.EpochOf(now))+epochsAhead).Scan(&made)
	})
	return made, err
}

// requestsKept is how long an Idempotency-Key is remembered.
const requestsKept = 24 * time.Hour

// ForgetRequests drops the origins of direct requests whose Idempotency-Key has had its day.
func (l *Ledger) ForgetRequests(ctx context.Context, now time.Time) error {
	_, err := l.db.Exec(ctx, `
		DELETE FROM origin_request
		WHERE  serial < $1`,
		uid.Floor(uid.Certificate, l.site, now.Add(-requestsKept)).Bytes())
	return err
}

// EpochsAhead returns how many epochs after now's have their partitions.
func (l *Ledger) EpochsAhead(ctx context.Context, now time.Time) (ahead int, err error) {
	err = l.db.QueryRow(ctx, `
		SELECT count(*)
		FROM   generate_series($2::integer + 1, $2::integer + $3) e
		WHERE  to_regclass('intent_10_s' || $1::integer || '_e' || e) IS NOT NULL`,
		int(l.site), int(uid.EpochOf(now)), epochsAhead).Scan(&ahead)
	return ahead, err
}

// Alone runs do while no other replica runs anything of that name: a lock that ends with the connection, whatever happens.
func (l *Ledger) Alone(ctx context.Context, name string, do func(context.Context) error) error {
	conn, err := l.db.Unwalled().Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	if _, err := conn.Exec(ctx, `SELECT pg_advisory_lock(hashtext($1))`, name); err != nil {
		return fmt.Errorf("waiting for another replica's %s: %w", name, err)
	}
	err = do(ctx)
	if _, unlock := conn.Exec(context.WithoutCancel(ctx), `SELECT pg_advisory_unlock(hashtext($1))`, name); unlock != nil {
		conn.Conn().Close(context.WithoutCancel(ctx)) //nolint:errcheck // that ends the lock as well
	}
	return err
}
