package postgres

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// errLocalCommit: with a synchronous standby asked for and none answering, a commit waits. When somebody cancels that
// wait the server answers success and a WARNING, and a failover may still lose the row
// (https://www.postgresql.org/docs/current/warm-standby.html#SYNCHRONOUS-REPLICATION-HA).
var errLocalCommit = errors.New("committed locally, but perhaps not on the standby")

// localCommit is the key under which a connection remembers that warning.
const localCommit = "segl.local-commit"

// noteLocalCommit knows the warning by the server function that raises it: it has no SQLSTATE of its own and its text
// follows lc_messages. It runs on the goroutine that reads the connection.
func noteLocalCommit(conn *pgconn.PgConn, n *pgconn.Notice) {
	if n.Routine == "SyncRepWaitForLSN" {
		conn.CustomData()[localCommit] = true
	}
}

// settle turns the end of a commit on conn into what is known about it.
func settle(conn *pgxpool.Conn, err error) error {
	data := conn.Conn().PgConn().CustomData()
	if data[localCommit] == true {
		delete(data, localCommit)
		if err == nil {
			return &doubt{errLocalCommit}
		}
		return &doubt{err}
	}
	return doubted(err)
}

// Tx runs do in a transaction and commits it when do returns nil. An error of do, or a panic, rolls back.
func Tx(ctx context.Context, db *DB, do func(pgx.Tx) error) error {
	return pgx.BeginFunc(ctx, db, do)
}

// Exec runs one statement in a transaction of its own.
func (db *DB) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	p, walled := db.pool(ctx)
	if walled {
		var b pgx.Batch
		b.Queue(sql, args...)
		results := db.SendBatch(ctx, &b)
		tag, err := results.Exec()
		return tag, errors.Join(err, results.Close())
	}
	conn, err := p.Acquire(ctx)
	if err != nil {
		return pgconn.CommandTag{}, err
	}
	defer conn.Release()
	tag, err := conn.Exec(ctx, sql, args...)
	return tag, settle(conn, err)
}

// Begin starts a transaction of which Commit says when its outcome is unknown.
func (db *DB) Begin(ctx context.Context) (pgx.Tx, error) {
	return db.BeginTx(ctx, pgx.TxOptions{})
}

// BeginTx is Begin with an isolation level.
func (db *DB) BeginTx(ctx context.Context, opts pgx.TxOptions) (pgx.Tx, error) {
	p, walled := db.pool(ctx)
	if walled {
		var err error
		if opts, err = beginWalled(ctx, opts); err != nil {
			return nil, err
		}
	}
	conn, err := p.Acquire(ctx)
	if err != nil {
		return nil, err
	}
	tx, err := conn.BeginTx(ctx, opts)
	if err != nil {
		conn.Release()
		return nil, err
	}
	return &checkedTx{Tx: tx, conn: conn}, nil
}

// A checkedTx owns its connection until Commit or Rollback, as pgxpool's does.
type checkedTx struct {
	pgx.Tx
	conn *pgxpool.Conn // nil once given back
}

func (tx *checkedTx) Commit(ctx context.Context) error {
	err := tx.Tx.Commit(ctx)
	if tx.conn == nil {
		return err
	}
	if !errors.Is(err, pgx.ErrTxCommitRollback) {
		err = settle(tx.conn, err)
	}
	tx.release()
	return err
}

func (tx *checkedTx) Rollback(ctx context.Context) error {
	err := tx.Tx.Rollback(ctx)
	tx.release()
	return err
}

func (tx *checkedTx) release() {
	if tx.conn != nil {
		tx.conn.Release()
		tx.conn = nil
	}
}

// SendBatch runs the statements of b in one round trip and, unless b says otherwise, one transaction. Close ends it: only
// Close's nil means that it is committed.
func (db *DB) SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	p, walled := db.pool(ctx)
	conn, err := p.Acquire(ctx)
	if err != nil {
		return failedBatch{err}
	}
	if !walled {
		return &checkedBatch{BatchResults: conn.SendBatch(ctx, b), conn: conn}
	}
	results := &checkedBatch{BatchResults: conn.SendBatch(ctx, queueWalled(ctx, b)), conn: conn}
	if _, err := results.Exec(); err != nil { // nothing is done where the wall could not be set
		return failedBatch{errors.Join(err, results.Close())}
	}
	return results
}

type checkedBatch struct {
	pgx.BatchResults
	conn *pgxpool.Conn // nil once given back
}

func (b *checkedBatch) Exec() (pgconn.CommandTag, error) {
	tag, err := b.BatchResults.Exec()
	return tag, doubted(err)
}

func (b *checkedBatch) QueryRow() pgx.Row { return checkedRow{b.BatchResults.QueryRow()} }

func (b *checkedBatch) Close() error {
	err := b.BatchResults.Close()
	if b.conn == nil {
		return err
	}
	err = settle(b.conn, err)
	b.conn.Release()
	b.conn = nil
	return err
}

type checkedRow struct{ pgx.Row }

func (r checkedRow) Scan(dest ...any) error { return doubted(r.Row.Scan(dest...)) }

// A failedBatch never reached the server.
type failedBatch struct{ err error }

func (b failedBatch) Exec() (pgconn.CommandTag, error) { return pgconn.CommandTag{}, b.err }
func (b failedBatch) Query() (pgx.Rows, error)         { return nil, b.err }
func (b failedBatch) QueryRow() pgx.Row                { return failedRow(b) }
func (b failedBatch) Tx() pgx.Tx                       { return nil }
func (b failedBatch) Close() error                     { return b.err }

type failedRow struct{ err error }

func (r failedRow) Scan(...any) error { return r.err }
