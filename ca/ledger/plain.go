package ledger

import (
	"bytes"
	"context"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
)

// Most writes are plain: an intent without an origin; a completion with the one fact of its issuance, that replaces nothing. A
// batch of those takes a statement that asks what could stand against them of all at once, and writes all or nothing. It
// costs the database a third of one that gives each its verdict. Where it writes nothing, the writes are not plain after
// all: they go the long way, which decides about each.

// errNotPlain sends a write the long way. Nothing of it was written.
var errNotPlain = errors.New("ledger: internal error: a write that is not plain was not sent the long way")

// isPlain reports whether in may be.
func (in stored) isPlain() bool {
	return in.scopeID != 0 && in.Origin.ID.IsZero()
}

// intendPlain writes a batch of plain intents.
func (l *Ledger) intendPlain(ctx context.Context, batch []*asked[stored]) error {
	parts := parted(batch, placesOf)
	list := make([]statement, len(parts))
	for i, part := range parts {
		list[i] = l.intendingPlain(placesOf(part[0].write), part)
	}
	written, err := l.rows(ctx, list)
	if err != nil {
		return err
	}
	refer(parts, written)
	return nil
}

// refer sends the parts of which nothing was written the long way.
func refer[T any](parts [][]*asked[T], written []int64) {
	for i, part := range parts {
		if written[i] != int64(len(part)) {
			for _, a := range part {
				a.err = errNotPlain
			}
		}
	}
}

// intendingPlain is the statement that writes a part, or nothing of it. As the long one it lowers what is settled.
func (l *Ledger) intendingPlain(at places, part []*asked[stored]) statement {
	n := len(part)
	serial, body, profile, notAfter := make([][]byte, n), make([][]byte, n), make([]string, n), make([]time.Time, n)
	authority, scope, keyMarks, nameMarks := make([]int32, n), make([]int32, n), make([]int64, n), make([]*int64, n)
	key, seen := make([][]byte, n), map[string]bool{}
	var paths []string
	var callers [][]byte
	var more further
	least := part[0].write.Serial.Bytes()
	for i, a := range part {
		in := a.write
		serial[i], body[i], profile[i], notAfter[i] = in.Serial.Bytes(), in.body, in.Profile, in.NotAfter
		authority[i], scope[i], keyMarks[i], nameMarks[i] = int32(in.Authority), in.scopeID, keyMark(in.Key), in.marks.first //nolint:gosec // an identity
		key[i] = in.Key[:]
		more.add(serial[i], in)
		if bytes.Compare(serial[i], least) < 0 {
			least = serial[i]
		}
		if path := in.Scope.String(); !seen[path] {
			seen[path], paths = true, append(paths, lineage(in.Scope)...)
		}
		if c := string(in.Caller.Bytes()); !in.Caller.IsZero() && !seen[c] {
			seen[c], callers = true, append(callers, []byte(c))
		}
	}
	args := []any{serial, notAfter, authority, scope, profile, body, keyMarks, nameMarks, key, paths, int16(l.site), least}
	caller, listed := ``, ``
	if at.caller != (leaf{}) {
		args = append(args, callers)
		caller = `
			AND    NOT EXISTS (SELECT FROM ` + at.caller.of("revocation") + ` WHERE serial = ANY ($13::bytea[]))
			AND    NOT EXISTS (SELECT FROM incident n WHERE ` + ending + `)`
	}
	if len(more.marks) > 0 {
		listed = more.listed(at.own, len(args))
		args = append(args, more.serials, more.marks, more.notAfter)
	}
	return statement{`
		WITH ok AS MATERIALIZED (
			SELECT true
			WHERE  NOT EXISTS (SELECT FROM blocked_key WHERE key = ANY ($9::bytea[]))
			AND    NOT EXISTS (SELECT FROM scope WHERE suspended_at IS NOT NULL AND path = ANY ($10::text[]))` + caller + `
		)` + listed + `, lowered AS (
			UPDATE settled
			SET    serial = $12
			WHERE  site = $11
			AND    serial > $12
		)
		INSERT INTO ` + at.own.of("intent") + ` (serial, not_after, authority, scope, profile, tbs, key_mark, name_mark)
		SELECT a.serial, a.not_after, a.authority, a.scope, a.profile, a.tbs, a.key_mark, a.name_mark
		FROM   unnest($1::bytea[], $2::timestamptz[], $3::integer[], $4::integer[], $5::text[], $6::bytea[], $7::bigint[], $8::bigint[])
		       AS a (serial, not_after, authority, scope, profile, tbs, key_mark, name_mark)
		WHERE  EXISTS (SELECT FROM ok)`, args}
}

// listed is the part of a statement that writes further names, its arguments after the first n.
func (f *further) listed(at leaf, n int) string {
	arg := func(i int) string { return "$" + strconv.Itoa(n+i) }
	return `, listed AS (
			INSERT INTO ` + at.of("further_name") + ` (serial, mark, not_after)
			SELECT f.serial, f.mark, f.not_after
			FROM   unnest(` + arg(1) + `::bytea[], ` + arg(2) + `::bigint[], ` + arg(3) + `::timestamptz[]) AS f (serial, mark, not_after)
			WHERE  EXISTS (SELECT FROM ok)
		)`
}

// lineage returns the paths of a scope and of those above it.
func lineage(s identity.Scope) []string {
	path := s.String()
	var out []string
	for i := range len(path) {
		if path[i] == '/' {
			out = append(out, path[:i])
		}
	}
	return append(out, path)
}

// A plainCompletion is one whose fact needs no column but the usual.
type plainCompletion struct {
	ca.Completion
	scopeID int32
}

// plainly reports whether c has the one usual fact.
func (l *Ledger) plainly(ctx context.Context, c ca.Completion) (plainCompletion, bool) {
	if len(c.Facts) != 1 || !c.Replaces.IsZero() {
		return plainCompletion{}, false
	}
	f := c.Facts[0]
	usual := !f.Refused && f.Serial == c.Serial && f.Who.Act == "" && f.Subject == "" && !f.Scope.IsZero()
	if !usual {
		return plainCompletion{}, false
	}
	id := l.scopeID(ctx, f.Scope)
	return plainCompletion{c, id}, id != 0
}

// completePlain writes a batch of signatures with their facts.
func (l *Ledger) completePlain(ctx context.Context, batch []*asked[plainCompletion]) error {
	batch, again := apart(batch, func(c plainCompletion) cert.Serial { return c.Serial })
	parts := parted(batch, func(c plainCompletion) leaf { return leafOf(c.Serial.UID()) })
	list := make([]statement, len(parts))
	for i, part := range parts {
		list[i] = completingPlain(leafOf(part[0].write.Serial.UID()), part)
	}
	written, err := l.rows(ctx, list)
	if len(batch) == 1 && (missingTable(err) || repeated(err)) {
		written, err = []int64{0}, nil // it was abandoned, or completed before, or never was: the long way says which
	}
	if err != nil {
		return err
	}
	refer(parts, written)
	for _, a := range again {
		a.err = errNotPlain
	}
	return nil
}

// repeated reports whether err says that a row is there already. A partition's key has a name of its own.
func repeated(err error) bool {
	e, ok := errors.AsType[*pgconn.PgError](err)
	return ok && e.Code == "23505"
}

// completingPlain is the statement that writes a part, or nothing of it.
func completingPlain(at leaf, part []*asked[plainCompletion]) statement {
	n := len(part)
	serial, when, signature := make([][]byte, n), make([]time.Time, n), make([][]byte, n)
	told, scope, what, actor := make([]time.Time, n), make([]int32, n), make([]string, n), make([]string, n)
	why := make([]*string, n) // by which revision of its profile, where that is none of the first
	for i, a := range part {
		f := a.write.Facts[0]
		serial[i], when[i], signature[i] = a.write.Serial.Bytes(), a.write.At, a.write.Signature
		told[i], scope[i], what[i], actor[i] = f.At, a.write.scopeID, f.What, audit.Clip(f.Who.Actor)
		if f.Why != "" {
			why[i] = &f.Why
		}
	}
	return statement{`
		WITH ok AS MATERIALIZED (
			SELECT true
			WHERE  (SELECT count(*) FROM ` + at.of("intent") + ` WHERE serial = ANY ($1::bytea[])) = $8
			AND    NOT EXISTS (SELECT FROM ` + at.of("revocation") + ` WHERE serial = ANY ($1::bytea[]))
			AND    NOT EXISTS (SELECT FROM incident n WHERE ` + ending + `)
		), noted AS (
			INSERT INTO fact (at, scope, what, actor, serial, why)
			SELECT f.at, f.scope, f.what, f.actor, f.serial, f.why
			FROM   unnest($4::timestamptz[], $5::integer[], $6::text[], $7::text[], $1::bytea[], $9::text[])
			       AS f (at, scope, what, actor, serial, why)
			WHERE  EXISTS (SELECT FROM ok)
		)
		INSERT INTO ` + at.of("outcome") + ` (serial, at, signature)
		SELECT c.serial, c.at, c.signature
		FROM   unnest($1::bytea[], $2::timestamptz[], $3::bytea[]) AS c (serial, at, signature)
		WHERE  EXISTS (SELECT FROM ok)`,
		[]any{serial, when, signature, told, scope, what, actor, int64(n), why}}
}

// rows runs statements that write, in one round trip and one transaction, and returns how many rows each wrote.
func (l *Ledger) rows(ctx context.Context, list []statement) ([]int64, error) {
	var b pgx.Batch
	for _, s := range list {
		b.Queue(s.sql, s.args...)
	}
	results := l.db.SendBatch(ctx, &b)
	written := make([]int64, len(list))
	for i := range list {
		tag, err := results.Exec()
		if err != nil {
			return nil, errors.Join(err, results.Close())
		}
		written[i] = tag.RowsAffected()
	}
	return written, results.Close()
}

// scopeID returns what rows call a scope, or 0 where that cannot be found out now: the long way then says why. A scope is
// never deleted, so what was found stays true.
func (l *Ledger) scopeID(ctx context.Context, s identity.Scope) int32 {
	path := s.String()
	if id, ok := l.scopes.Load(path); ok {
		return id.(int32) //nolint:forcetypeassert // nothing else is stored
	}
	var id int32
	err := l.db.QueryRow(ctx, `
		SELECT id
		FROM   scope
		WHERE  path = $1`, path).Scan(&id)
	if err != nil {
		return 0
	}
	l.scopes.Store(strings.Clone(path), id)
	return id
}
