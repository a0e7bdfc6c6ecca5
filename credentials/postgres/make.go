package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"codeberg.org/dataverket/segl/credentials"
)

// Check implements credentials.Backend: it connects anew.
func (b *Backend) Check(ctx context.Context, t credentials.Target) error {
	cfg, err := b.config(t, t.Database)
	if err != nil {
		return err
	}
	conn, err := pgx.ConnectConfig(ctx, cfg.ConnConfig)
	if err != nil {
		return explained(err)
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // nothing is left to be said
	return b.judge(ctx, conn)
}

// Make implements credentials.Backend.
func (b *Backend) Make(ctx context.Context, t credentials.Target, g credentials.Grant) ([]credentials.Receipt, error) {
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	p, err := b.pool(ctx, t, g.Database)
	if err != nil {
		return nil, err
	}
	now := b.cfg.Now()
	before := now.Add(grace)
	if g.Way == credentials.Certificate {
		_, err = p.Exec(ctx, `SELECT segl.certify($1, $2, $3, $4, $5)`, g.Principal, g.Connections, g.Group, now, before)
		return b.did(credentials.LoginMade, err)
	}
	v, err := verifier(g.Password.Reveal())
	if err != nil {
		return nil, err
	}
	if g.Way == credentials.Static {
		_, err = p.Exec(ctx, `SELECT segl.rotate($1, $2, $3, $4, $5, $6)`, g.Principal, v, g.Until, g.Lease, now, before)
		return b.did(credentials.PasswordChanged, err)
	}
	_, err = p.Exec(ctx, `SELECT segl.make($1, $2, $3, $4, $5, $6, $7)`, g.Principal, v, g.Until, g.Connections, g.Group, now, before)
	return b.did(credentials.LoginMade, err)
}

func (b *Backend) did(what credentials.Effect, err error) ([]credentials.Receipt, error) {
	if err != nil {
		return nil, explained(err)
	}
	return []credentials.Receipt{{Effect: what, At: b.cfg.Now()}}, nil
}

// Extend implements credentials.Backend.
func (b *Backend) Extend(ctx context.Context, t credentials.Target, g credentials.Grant) ([]credentials.Receipt, error) {
	if g.Way == credentials.Certificate { // the certificate says until when
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	p, err := b.pool(ctx, t, g.Database)
	if err != nil {
		return nil, err
	}
	now := b.cfg.Now()
	var there bool
	if err := p.QueryRow(ctx, `SELECT segl.extend($1, $2, $3, $4)`, g.Principal, g.Until, now, now.Add(grace)).Scan(&there); err != nil {
		return nil, explained(err)
	}
	if !there {
		return nil, fmt.Errorf("%w: login %s", credentials.ErrNotFound, g.Principal)
	}
	return b.did(credentials.LoginExtended, nil)
}

// Principals implements credentials.Backend.
func (b *Backend) Principals(ctx context.Context, t credentials.Target) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	p, err := b.pool(ctx, t, t.Database)
	if err != nil {
		return nil, err
	}
	rows, err := p.Query(ctx, `SELECT n FROM segl.principals() n`)
	if err != nil {
		return nil, explained(err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowTo[string])
	return list, explained(err)
}

// atOnce is how many logins one transaction ends: a row lock each, and the sessions of all are waited for together.
const atOnce = 100

// End implements credentials.Backend.
func (b *Backend) End(ctx context.Context, t credentials.Target, list []credentials.Grant) ([]credentials.Ended, error) {
	byDatabase := make(map[string][]string)
	var out []credentials.Ended
	for _, g := range list {
		if g.Way == credentials.Leased {
			byDatabase[g.Database] = append(byDatabase[g.Database], g.Principal)
		} else {
			out = append(out, b.shut(ctx, t, g))
		}
	}
	for database, names := range byDatabase {
		for len(names) > 0 {
			part := names[:min(atOnce, len(names))]
			names = names[len(part):]
			done, err := b.end(ctx, t, database, part)
			if err != nil {
				return nil, err
			}
			out = append(out, done...)
		}
	}
	return out, nil
}

// shut ends what a role that stays was given: its password, or the sessions of one certificate.
func (b *Backend) shut(ctx context.Context, t credentials.Target, g credentials.Grant) credentials.Ended {
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	out := credentials.Ended{Principal: g.Principal, Lease: g.Lease}
	p, err := b.pool(ctx, t, g.Database)
	if err != nil {
		out.Err = err
		return out
	}
	sql, arg, effect := `SELECT segl.retract($1, $2)`, g.Lease, credentials.PasswordChanged
	if g.Way == credentials.Certificate {
		sql, arg, effect = `SELECT segl.shut($1, $2::text::numeric)`, g.Serial, credentials.WasNotThere
	}
	var ended *int
	if err := p.QueryRow(ctx, sql, g.Principal, arg).Scan(&ended); err != nil {
		out.Err = explained(err)
		return out
	}
	now := b.cfg.Now()
	switch {
	case ended == nil:
		out.Receipts = []credentials.Receipt{{Effect: credentials.WasNotThere, At: now}}
	case g.Way == credentials.Static:
		out.Receipts = []credentials.Receipt{{Effect: effect, At: now}, {Effect: credentials.SessionsEnded, Count: *ended, At: now}}
	default:
		out.Receipts = []credentials.Receipt{{Effect: credentials.SessionsEnded, Count: *ended, At: now}}
	}
	return out
}

// end closes some, and then finishes them. Between the two nobody can get in.
func (b *Backend) end(ctx context.Context, t credentials.Target, database string, names []string) ([]credentials.Ended, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*statementTimeout)
	defer cancel()
	p, err := b.pool(ctx, t, database)
	if err != nil {
		return nil, err
	}
	rows, err := p.Query(ctx, `SELECT n FROM segl.close($1) n`, names)
	if err != nil {
		return nil, explained(err)
	}
	closed, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, explained(err)
	}
	at := b.cfg.Now()
	if rows, err = p.Query(ctx, `SELECT principal, sessions, owned, trouble FROM segl.finish($1)`, closed); err != nil {
		return nil, explained(err)
	}
	done, err := pgx.CollectRows(rows, pgx.RowToStructByPos[finished])
	if err != nil {
		return nil, explained(err)
	}
	return ended(names, done, at, b.cfg.Now()), nil
}

// finished is what became of one closed role.
type finished struct {
	Principal string
	Sessions  int
	Owned     int
	Trouble   *string
}

// ended says for each name what was done; what was not finished was not there.
func ended(names []string, done []finished, closed, now time.Time) []credentials.Ended {
	found := make(map[string]finished, len(done))
	for _, f := range done {
		found[f.Principal] = f
	}
	out := make([]credentials.Ended, len(names))
	for i, name := range names {
		out[i].Principal = name
		f, ok := found[name]
		if !ok {
			out[i].Receipts = []credentials.Receipt{{Effect: credentials.WasNotThere, At: now}}
			continue
		}
		out[i].Receipts = []credentials.Receipt{{Effect: credentials.LoginClosed, At: closed}, {Effect: credentials.SessionsEnded, Count: f.Sessions, At: now}}
		if f.Trouble != nil {
			out[i].Err = fmt.Errorf("dropping login %s: %s", name, *f.Trouble)
			continue
		}
		if f.Owned > 0 {
			out[i].Receipts = append(out[i].Receipts, credentials.Receipt{Effect: credentials.OwnedReassigned, Count: f.Owned, At: now})
		}
		out[i].Receipts = append(out[i].Receipts, credentials.Receipt{Effect: credentials.LoginDropped, At: now})
	}
	return out
}
