// Package postgres opens the ledger's database and says what its errors mean.
//
// It is a pool with deadlines (Open), one transaction (Tx), the schema (Migrate, CheckSchema), a look at whether the
// server keeps what it acknowledges (CheckDurability) and hints from other replicas (Listen). It writes no SQL of the
// domains, hides no pgx type and never retries: a caller who may repeat a write is told whether the last one is known to
// have failed.
//
// The invariant: nil from Tx, DB.Exec or the Close of DB.SendBatch's results means committed as durably as the server
// was asked to; an error means not committed, unless InDoubt(err). DB.Query and DB.QueryRow on the pool are for reading;
// inside Tx they may write as well.
//
// A second invariant is the tenant wall: of a walled DB (Walled), work whose context does not say that it is the owner's
// (AsOwner) sees the rows of the scopes that its context names (Within), and of nobody where it names none. It is held by
// Postgres's row-level security, not by the statements.
//
// Everything here may be called concurrently.
package postgres

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Deadlines. A multi-host URL tries each host for connectTimeout, so it is short; the keepalive and ping bounds are what
// notices a server that vanished without a word.
const (
	connectTimeout    = 3 * time.Second
	pingTimeout       = 3 * time.Second
	healthCheckPeriod = 15 * time.Second
	connLifetime      = 30 * time.Minute
	connLifetimeSpan  = 5 * time.Minute
	connIdleTime      = 5 * time.Minute
)

// A Config says which database, and how many connections of it.
type Config struct {
	// URL is a postgres:// URL or a keyword/value string as libpq reads it. With several hosts the one that takes writes
	// is used, unless target_session_attrs says otherwise.
	URL string
	// MaxConns bounds the pool. Zero: four a core, at least ten.
	MaxConns int32
	// ApplicationName is what pg_stat_activity shows. Empty: segl.
	ApplicationName string
}

// DB is a pool of connections. Close it when all its users have finished.
type DB struct {
	*pgxpool.Pool
	owner *pgxpool.Pool // of a walled DB: where owner's work is done (Walled); nil: all work is done on Pool
}

// Unwalled returns the DB of owner's work alone, whatever a context says.
func (db *DB) Unwalled() *DB {
	if db.owner == nil {
		return db
	}
	return &DB{Pool: db.owner}
}

// Open makes the pool and sees that the database answers. An error for which Unavailable holds may be tried again.
func Open(ctx context.Context, cfg Config) (*DB, error) {
	pc, err := parse(cfg.URL)
	if err != nil {
		return nil, err
	}
	pc.MaxConns = cfg.MaxConns
	if pc.MaxConns <= 0 {
		pc.MaxConns = max(10, 4*int32(runtime.NumCPU())) //nolint:gosec // a number of cores
	}
	if cfg.ApplicationName != "" {
		pc.ConnConfig.RuntimeParams["application_name"] = cfg.ApplicationName
	}
	pool, err := pgxpool.NewWithConfig(ctx, pc)
	if err != nil {
		return nil, fmt.Errorf("opening database: %w", err)
	}
	if err := pool.Ping(ctx); err != nil {
		pool.Close()
		return nil, fmt.Errorf("opening database: %w", err)
	}
	return &DB{Pool: pool}, nil
}

// parse reads a connection string and puts our deadlines where it has none.
func parse(url string) (*pgxpool.Config, error) {
	if strings.TrimSpace(url) == "" {
		return nil, errors.New("database URL is empty: want postgres://user@host:5432/name or a libpq keyword string")
	}
	pc, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("reading database URL: %s", parseReason(err))
	}
	pc.PingTimeout = pingTimeout
	pc.HealthCheckPeriod = healthCheckPeriod
	pc.MaxConnLifetime = connLifetime
	pc.MaxConnLifetimeJitter = connLifetimeSpan
	pc.MaxConnIdleTime = connIdleTime
	cc := pc.ConnConfig
	if cc.ConnectTimeout == 0 {
		cc.ConnectTimeout = connectTimeout
	}
	if cc.ValidateConnect == nil && hosts(&cc.Config) > 1 {
		cc.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsReadWrite
	}
	cc.OnNotice = noteLocalCommit
	defaults := map[string]string{
		"application_name": "segl",
		// A replica that stalls inside a transaction must not hold its locks, nor hold back the seals, for ever.
		"idle_in_transaction_session_timeout": "60s",
		// Statements are few, prepared, and look rows up by identifiers that prune partitions as they run: one plan serves every
		// call. Left to choose, the server plans the batch statements anew each time, which costs as much as running them.
		"plan_cache_mode": "force_generic_plan",
		// What is planned while a week's partition is young, and small enough to be read whole, stays when it is not: look-ups
		// go by their index from the first row on. A table without one is read as before.
		"enable_seqscan": "off",
		// A plan that has to read a table whole, for want of an index, then looks so dear that the server would compile it: for
		// longer than our statements run, each time.
		"jit": "off",
	}
	for name, value := range defaults {
		if _, ok := cc.RuntimeParams[name]; !ok {
			cc.RuntimeParams[name] = value
		}
	}
	return pc, nil
}

// parseReason is pgx's reason without the connection string it quotes, whose redaction pgx calls best effort.
func parseReason(err error) string {
	var bad *pgconn.ParseConfigError
	if !errors.As(err, &bad) {
		return "not a connection string"
	}
	reason := bad.Error()
	if cause := bad.Unwrap(); cause != nil { // it may quote the string as well
		reason = strings.TrimSuffix(reason, " ("+cause.Error()+")")
	}
	if i := strings.LastIndex(reason, "`: "); i >= 0 {
		return reason[i+len("`: "):]
	}
	return "not a connection string"
}

// hosts counts the servers a configuration names; sslmode=prefer lists each of them twice.
func hosts(c *pgconn.Config) int {
	seen := map[string]bool{fmt.Sprint(c.Host, " ", c.Port): true}
	for _, f := range c.Fallbacks {
		seen[fmt.Sprint(f.Host, " ", f.Port)] = true
	}
	return len(seen)
}
