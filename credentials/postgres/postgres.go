// Package postgres makes leases true at PostgreSQL servers, 15 and newer.
//
// It logs in by a certificate and calls functions that an administrator installed (deploy/targets/postgresql.sql): it may make
// no role itself. What travels is a SCRAM-SHA-256 verifier made here (RFC 5802, RFC 7677), never a password, and as an argument,
// so that no statement log of the server has it. A login whose owner could do more than call those functions is refused.
//
// Ending is in two transactions: first nobody gets in any more, then sessions end, what the role owns becomes its group's, and
// it is dropped. VALID UNTIL and NOLOGIN alone stop no open session. Nothing is ever dropped with a role: what cannot be given
// to its group keeps the role, closed, and says so.
//
// A Backend is safe for concurrent use. Close it when its users have finished.
package postgres

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"codeberg.org/dataverket/segl/credentials"
)

// A Config says how targets are reached.
type Config struct {
	// Certificate returns ours, as the client of a target.
	Certificate func(context.Context) (*tls.Certificate, error)
	// Roots vouch for targets that bring no authority of their own.
	Roots func() *x509.CertPool
	Now   func() time.Time
	// Connections bounds those to one database of a target. Zero: 8.
	Connections int32
}

// Bounds of what a target may cost.
const (
	connectTimeout   = 3 * time.Second
	statementTimeout = 15 * time.Second
	idle             = time.Minute
	mostPools        = 256
	// grace is how long the server may still begin what was asked: afterwards it refuses by its own clock.
	grace = 10 * time.Second
)

// A Backend implements credentials.Backend.
type Backend struct {
	cfg Config

	mu    sync.Mutex // guards pools
	pools map[place]*pgxpool.Pool
}

// A place is one database of one target.
type place struct{ address, authority, manager, database string }

// New returns a Backend that knows no target yet.
func New(c Config) *Backend {
	if c.Connections == 0 {
		c.Connections = 8
	}
	return &Backend{cfg: c, pools: make(map[place]*pgxpool.Pool)}
}

// Close ends every connection.
func (b *Backend) Close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for at, p := range b.pools {
		p.Close()
		delete(b.pools, at)
	}
}

// pool returns that of a database of t. Making one connects to nothing.
func (b *Backend) pool(ctx context.Context, t credentials.Target, database string) (*pgxpool.Pool, error) {
	at := place{t.Address, t.Authority, t.Manager, database}
	b.mu.Lock()
	defer b.mu.Unlock()
	if p, ok := b.pools[at]; ok {
		return p, nil
	}
	if len(b.pools) >= mostPools { // whichever: it is made again when it is needed
		for other, p := range b.pools {
			go p.Close()
			delete(b.pools, other)
			break
		}
	}
	cfg, err := b.config(t, database)
	if err != nil {
		return nil, err
	}
	p, err := pgxpool.NewWithConfig(context.WithoutCancel(ctx), cfg)
	if err != nil {
		return nil, fmt.Errorf("preparing connections to %s: %w", t.Address, err)
	}
	b.pools[at] = p
	return p, nil
}

func (b *Backend) config(t credentials.Target, database string) (*pgxpool.Config, error) {
	host, text, err := net.SplitHostPort(t.Address)
	if err != nil {
		return nil, fmt.Errorf("reading address %q: %w", t.Address, err)
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("reading address %q: %w", t.Address, err)
	}
	cfg, err := pgxpool.ParseConfig("host=placeholder sslmode=disable connect_timeout=3")
	if err != nil {
		return nil, fmt.Errorf("preparing connections to %s: %w", t.Address, err)
	}
	cc := cfg.ConnConfig
	cc.Host, cc.Port, cc.User, cc.Database, cc.Password, cc.Fallbacks = host, uint16(port), t.Manager, database, "", nil
	if cc.TLSConfig, err = b.tls(t, host); err != nil {
		return nil, err
	}
	cc.ConnectTimeout = connectTimeout
	cc.RuntimeParams = map[string]string{"application_name": "segl", "statement_timeout": strconv.FormatInt(statementTimeout.Milliseconds(), 10)}
	cfg.MaxConns, cfg.MaxConnIdleTime, cfg.MaxConnLifetime, cfg.HealthCheckPeriod = b.cfg.Connections, idle, 10*idle, idle
	cfg.BeforeConnect = func(_ context.Context, cc *pgx.ConnConfig) (err error) { // roots rotate while connections are kept ready
		cc.TLSConfig, err = b.tls(t, host)
		return err
	}
	cfg.AfterConnect = b.judge
	return cfg, nil
}

// tls is verify-full, and nothing less: the name and the chain of the target's certificate are checked, and ours is shown.
func (b *Backend) tls(t credentials.Target, host string) (*tls.Config, error) {
	roots := b.cfg.Roots()
	if t.Authority != "" {
		roots = x509.NewCertPool()
		if !roots.AppendCertsFromPEM([]byte(t.Authority)) {
			return nil, fmt.Errorf("reading the authority of %s: no certificate in it", t.Address)
		}
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS12, ServerName: host, RootCAs: roots, Time: b.cfg.Now,
		GetClientCertificate: func(r *tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return b.cfg.Certificate(r.Context())
		},
	}, nil
}

// judge refuses a connection on which we may do more than we need, or nothing at all.
func (b *Backend) judge(ctx context.Context, conn *pgx.Conn) error {
	if conn.PgConn().ParameterStatus("is_superuser") == "on" {
		return fmt.Errorf("%w: it is a superuser", credentials.ErrTooPowerful)
	}
	var powerful bool
	var at time.Time
	if err := conn.QueryRow(ctx, `SELECT powerful, at FROM segl.standing()`).Scan(&powerful, &at); err != nil {
		return explained(err)
	}
	if powerful {
		return fmt.Errorf("%w: it makes roles or databases, replicates, passes row security, or is in a group", credentials.ErrTooPowerful)
	}
	if off := at.Sub(b.cfg.Now()); off > mostOff || off < -mostOff {
		return fmt.Errorf("%w: by %s", credentials.ErrClock, off.Round(time.Second))
	}
	return nil
}

// mostOff is how far clocks may be apart: VALID UNTIL is judged by the target's.
const mostOff = 30 * time.Second

// explained says what an error of a target means.
func explained(err error) error {
	if err == nil {
		return nil
	}
	for _, known := range []error{credentials.ErrTooPowerful, credentials.ErrClock, credentials.ErrUnprepared, credentials.ErrGroup} {
		if errors.Is(err, known) {
			return err
		}
	}
	e, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		return fmt.Errorf("%w: %w", credentials.ErrUnreachable, err)
	}
	switch e.Code {
	case "SG001":
		return fmt.Errorf("%w: %s", credentials.ErrClock, e.Message)
	case "SG002", "SG003", "SG005":
		return fmt.Errorf("%w: %s", credentials.ErrGroup, e.Message)
	case "SG004":
		return fmt.Errorf("%w: it was too slow", credentials.ErrUnreachable)
	case "3F000", "42883", "42501", "42P01", "3D000", "28000", "28P01": // no schema, function, right, table, database; not let in
		return fmt.Errorf("%w: %s (SQLSTATE %s); run deploy/targets/postgresql.sql there", credentials.ErrUnprepared, e.Message, e.Code)
	}
	return fmt.Errorf("%w: %s (SQLSTATE %s)", credentials.ErrUnreachable, e.Message, e.Code)
}
