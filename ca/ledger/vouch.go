package ledger

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"time"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/postgres"
)

// A vouched fact says that something was derived from certificates: it is written only where they stand.
type vouched struct {
	audit.Fact
	scopeID int32
	serials []cert.Serial
}

// Vouch writes a fact in a transaction in which every one of serials stands and nothing above the fact's scope, nor itself, is
// suspended: else ca.ErrCallerRevoked or ca.ErrSuspended, and nothing is written. Facts that come together share a transaction.
//
// The certificates may be other tenants', where somebody exchanged what it was given, and whether one stands is published to
// everybody; the fact is of the scope that the caller's own certificate names. So this looks past the tenant wall.
func (l *Ledger) Vouch(ctx context.Context, f audit.Fact, serials ...cert.Serial) error {
	ctx = postgres.AsOwner(ctx)
	for _, s := range serials {
		there, err := l.has(ctx, "outcome", leafOf(s.UID()))
		if err != nil {
			return explained(err)
		}
		if !there {
			return ca.ErrCallerRevoked
		}
	}
	id := l.scopeID(ctx, f.Scope)
	if id == 0 {
		return ca.ErrUnavailable
	}
	write := vouched{f, id, serials}
	err := l.vouches.do(ctx, write)
	if !errors.Is(err, errNotPlain) {
		return err
	}
	return l.vouchAlone(ctx, write)
}

// vouch writes a batch, all or nothing: what speaks against one of them is asked of all at once, as nearly always nothing does.
func (l *Ledger) vouch(ctx context.Context, batch []*asked[vouched]) error {
	written, err := l.rows(ctx, []statement{vouching(batch)})
	if missingTable(err) {
		written, err = []int64{0}, nil // an epoch has left: each finds out whether it was its own
	}
	if err != nil {
		return err
	}
	refer([][]*asked[vouched]{batch}, written)
	return nil
}

// vouching is the statement that writes a batch, or nothing of it. Serials are looked up in their weeks' partitions.
func vouching(batch []*asked[vouched]) statement {
	n := len(batch)
	at, scope, what, actor := make([]time.Time, n), make([]int32, n), make([]string, n), make([]string, n)
	act, serial, subject := make([]string, n), make([][]byte, n), make([]string, n)
	var paths []string
	byLeaf, seen := map[leaf][][]byte{}, map[string]bool{}
	for i, a := range batch {
		f := a.write.Fact
		at[i], scope[i], what[i], actor[i] = f.At, a.write.scopeID, f.What, audit.Clip(f.Who.Actor)
		act[i], serial[i], subject[i] = audit.Clip(f.Who.Act), f.Serial.Bytes(), audit.Clip(f.Subject)
		if path := f.Scope.String(); !seen[path] {
			seen[path], paths = true, append(paths, lineage(f.Scope)...)
		}
		for _, s := range a.write.serials {
			if b := s.Bytes(); !seen[string(b)] {
				seen[string(b)] = true
				v := leafOf(s.UID())
				byLeaf[v] = append(byLeaf[v], b)
			}
		}
	}
	args := []any{at, scope, what, actor, act, serial, subject, paths}
	standing := ``
	leaves := make([]leaf, 0, len(byLeaf))
	for v := range byLeaf {
		leaves = append(leaves, v)
	}
	slices.SortFunc(leaves, compareLeaves) // one spelling of the statement for one set of weeks
	for _, v := range leaves {
		args = append(args, byLeaf[v], len(byLeaf[v]))
		list, count := argument(len(args)-1), argument(len(args))
		standing += `
			AND    (SELECT count(*) FROM ` + v.of("outcome") + ` WHERE serial = ANY (` + list + `::bytea[]) AND signature IS NOT NULL) = ` + count + `::bigint
			AND    NOT EXISTS (SELECT FROM ` + v.of("revocation") + ` WHERE serial = ANY (` + list + `::bytea[]))`
	}
	return statement{`
		WITH ok AS MATERIALIZED (
			SELECT true
			WHERE  NOT EXISTS (SELECT FROM scope WHERE suspended_at IS NOT NULL AND path = ANY ($8::text[]))
			AND    NOT EXISTS (SELECT FROM incident n WHERE ` + ending + `)` + standing + `
		)` + insertVouched + `
		WHERE  EXISTS (SELECT FROM ok)`, args}
}

const insertVouched = `
		INSERT INTO fact (at, scope, what, actor, act, serial, subject)
		SELECT f.at, f.scope, f.what, f.actor, nullif(f.act, ''), f.serial, f.subject
		FROM   unnest($1::timestamptz[], $2::integer[], $3::text[], $4::text[], $5::text[], $6::bytea[], $7::text[])
		       AS f (at, scope, what, actor, act, serial, subject)`

// argument returns how a statement calls its nth argument.
func argument(n int) string { return "$" + strconv.Itoa(n) }

// vouchAlone writes one that something may speak against, and says what it was.
func (l *Ledger) vouchAlone(ctx context.Context, w vouched) error {
	args := slices.Clone(vouching([]*asked[vouched]{{write: w}}).args[:8])
	revoked := ``
	for _, s := range w.serials {
		args = append(args, s.Bytes())
		arg := argument(len(args)) + "::bytea"
		v := leafOf(s.UID())
		revoked += `
		AND    EXISTS (SELECT FROM ` + v.of("outcome") + ` WHERE serial = ` + arg + ` AND signature IS NOT NULL)
		AND    NOT ` + v.isRevoked(arg)
	}
	tag, err := l.db.Exec(ctx, insertVouched+`
		WHERE  NOT EXISTS (SELECT FROM scope WHERE suspended_at IS NOT NULL AND path = ANY ($8::text[]))`+revoked, args...)
	switch {
	case missingTable(err):
		return ca.ErrCallerRevoked // its epoch has left, and so all in it had expired
	case err != nil:
		return explained(err)
	case tag.RowsAffected() == 1:
		return nil
	}
	for _, s := range w.serials {
		if err := l.Stands(ctx, s); errors.Is(err, ca.ErrCallerRevoked) || errors.Is(err, ca.ErrNotFound) {
			return ca.ErrCallerRevoked
		} else if err != nil {
			return explained(err)
		}
	}
	return ca.ErrSuspended
}
