package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"
)

// ErrNoWall: the role that tenants' requests become would see more than they may.
var ErrNoWall = errors.New("the tenant wall does not stand")

// Walled opens a second pool on db's database, whose sessions are ServiceRole, and returns a DB that does owner's work on db
// and everybody else's on that pool: each transaction is told, in its own round trip, which scopes its context's caller sees.
// It refuses with ErrNoWall where the role could see past its wall. Close it before db.
func (db *DB) Walled(ctx context.Context) (*DB, error) {
	pc := db.Config()
	pc.AfterConnect = becomeService
	pool, err := pgxpool.NewWithConfig(ctx, pc)
	if err != nil {
		return nil, fmt.Errorf("opening the walled pool: %w", err)
	}
	walled := &DB{Pool: pool, owner: db.Pool}
	if err := CheckWall(ctx, db); err != nil {
		pool.Close()
		return nil, err
	}
	if err := pool.Ping(ctx); err != nil {
		pool.Close()
		return nil, fmt.Errorf("opening the walled pool: %w: grant %s to the configured role", err, ServiceRole)
	}
	return walled, nil
}

// becomeService turns a session into the service's. Names are still found where the owner's are.
func becomeService(ctx context.Context, conn *pgx.Conn) error {
	_, err := conn.Exec(ctx, `
		SELECT set_config('search_path', quote_ident(current_schema()), false);
		SET ROLE `+ServiceRole, pgx.QueryExecModeSimpleProtocol)
	return err
}

// pool returns where ctx's work is done, and whether behind the wall.
func (db *DB) pool(ctx context.Context) (p *pgxpool.Pool, walled bool) {
	if db.owner != nil && IsOwner(ctx) {
		return db.owner, false
	}
	return db.Pool, db.owner != nil
}

// setWall is the first statement of each walled transaction.
const setWall = `SELECT set_config('segl.scopes', $1, true), set_config('segl.above', $2, true)`

// Query reads rows. Its error, too, is in the rows.
func (db *DB) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	p, walled := db.pool(ctx)
	if !walled {
		return p.Query(ctx, sql, args...)
	}
	var b pgx.Batch
	b.Queue(sql, args...)
	results := db.SendBatch(ctx, &b)
	rows, err := results.Query()
	if err != nil {
		err = errors.Join(err, results.Close())
		return failedRows{err}, err
	}
	return &walledRows{Rows: rows, results: results}, nil
}

// QueryRow reads one row.
func (db *DB) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	p, walled := db.pool(ctx)
	if !walled {
		return p.QueryRow(ctx, sql, args...)
	}
	rows, _ := db.Query(ctx, sql, args...) //nolint:rowserrcheck // it is in the rows
	return firstRow{rows}
}

// queueWalled is b with the wall before it.
func queueWalled(ctx context.Context, b *pgx.Batch) *pgx.Batch {
	s := settingOf(ctx)
	var all pgx.Batch
	all.Queue(setWall, s.scopes, s.above)
	all.QueuedQueries = append(all.QueuedQueries, b.QueuedQueries...)
	return &all
}

// beginWalled is opts with the wall set in the same round trip. A setting is numbers and commas.
func beginWalled(ctx context.Context, opts pgx.TxOptions) (pgx.TxOptions, error) {
	if opts != (pgx.TxOptions{}) {
		return opts, errors.New("postgres: internal error: a walled transaction has no options")
	}
	s := settingOf(ctx)
	opts.BeginQuery = `BEGIN; SELECT set_config('segl.scopes', '` + s.scopes + `', true), set_config('segl.above', '` + s.above + `', true)`
	return opts, nil
}

// walledRows end their batch, and give its connection back, when they are read or closed.
type walledRows struct {
	pgx.Rows
	results pgx.BatchResults // nil once ended
	err     error
}

func (r *walledRows) Next() bool {
	if r.Rows.Next() {
		return true
	}
	r.Close()
	return false
}

func (r *walledRows) Close() {
	r.Rows.Close()
	if r.results != nil {
		r.err = r.results.Close()
		r.results = nil
	}
}

func (r *walledRows) Err() error {
	if err := r.Rows.Err(); err != nil {
		return err
	}
	return r.err
}

// Conn is nil: the connection is not the caller's.
func (r *walledRows) Conn() *pgx.Conn { return nil }

// A firstRow is the one row of its rows.
type firstRow struct{ rows pgx.Rows }

func (r firstRow) Scan(dest ...any) error {
	defer r.rows.Close()
	if !r.rows.Next() {
		if err := r.rows.Err(); err != nil {
			return err
		}
		return pgx.ErrNoRows
	}
	if err := r.rows.Scan(dest...); err != nil {
		return err
	}
	r.rows.Close()
	return r.rows.Err()
}

// failedRows are those of a query that did not run.
type failedRows struct{ err error }

func (failedRows) Close()                                       {}
func (r failedRows) Err() error                                 { return r.err }
func (failedRows) CommandTag() pgconn.CommandTag                { return pgconn.CommandTag{} }
func (failedRows) FieldDescriptions() []pgconn.FieldDescription { return nil }
func (failedRows) Next() bool                                   { return false }
func (r failedRows) Scan(...any) error                          { return r.err }
func (r failedRows) Values() ([]any, error)                     { return nil, r.err }
func (failedRows) RawValues() [][]byte                          { return nil }
func (failedRows) Conn() *pgx.Conn                              { return nil }
func (failedRows) TypeMap() *pgtype.Map                         { return nil }
