// Package mysql makes leases true at MariaDB servers, 10.5 and newer.
//
// It logs in by a certificate and calls procedures that an administrator installed (deploy/targets/mariadb.sql); whoever could
// do more is refused. What travels is the hash that the server would keep, made here, never a password; passwords have 256
// random bits, so that its kind (mysql_native_password, which every client speaks) matters little, and logins need TLS.
// Accounts have no end of their own here: the cascade ends them. A Backend is safe for concurrent use; Close it at the end.
package mysql

import (
	"context"
	"crypto/sha1" //nolint:gosec // what the server keeps (mysql_native_password)
	"crypto/tls"
	"crypto/x509"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"regexp"
	"sync"
	"time"

	"github.com/go-sql-driver/mysql"

	"codeberg.org/dataverket/segl/credentials"
)

// A Config says how targets are reached.
type Config struct {
	Certificate func(context.Context) (*tls.Certificate, error) // ours, as the client of a target
	Roots       func() *x509.CertPool                           // for targets that bring no authority of their own
	Now         func() time.Time
}

// Bounds of what a target may cost.
const (
	timeout     = 15 * time.Second
	connect     = 3 * time.Second
	grace       = 10 * time.Second
	idle        = time.Minute
	connections = 8
	mostPools   = 256
	mostOff     = 30 * time.Second
)

// A Backend implements credentials.Backend.
type Backend struct {
	cfg Config

	mu    sync.Mutex // guards pools
	pools map[place]*sql.DB
}

type place struct{ address, authority, manager string }

// New returns a Backend that knows no target yet.
func New(c Config) *Backend { return &Backend{cfg: c, pools: make(map[place]*sql.DB)} }

// Close ends every connection.
func (b *Backend) Close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for at, p := range b.pools {
		p.Close() //nolint:errcheck // nothing of it is needed any more
		delete(b.pools, at)
	}
}

func (b *Backend) pool(t credentials.Target) (*sql.DB, error) {
	at := place{t.Address, t.Authority, t.Manager}
	b.mu.Lock()
	defer b.mu.Unlock()
	if p, ok := b.pools[at]; ok {
		return p, nil
	}
	if len(b.pools) >= mostPools { // whichever: it is made again when it is needed
		for other, p := range b.pools {
			go p.Close() //nolint:errcheck // as above
			delete(b.pools, other)
			break
		}
	}
	p, err := b.open(t)
	if err == nil {
		b.pools[at] = p
	}
	return p, err
}

func (b *Backend) open(t credentials.Target) (*sql.DB, error) {
	host, _, err := net.SplitHostPort(t.Address)
	if err != nil {
		return nil, fmt.Errorf("reading address %q: %w", t.Address, err)
	}
	c := mysql.NewConfig()
	c.User, c.Net, c.Addr, c.Timeout, c.ReadTimeout, c.WriteTimeout, c.ParseTime = t.Manager, "tcp", t.Address, connect, timeout, timeout, true
	c.AllowNativePasswords, c.InterpolateParams = true, false
	c.Logger = &mysql.NopLogger{}
	if c.TLS, err = b.tls(t, host); err != nil {
		return nil, err
	}
	err = c.Apply(mysql.BeforeConnect(func(_ context.Context, c *mysql.Config) (err error) { // roots rotate while a pool is kept
		c.TLS, err = b.tls(t, host)
		return err
	}))
	if err != nil {
		return nil, fmt.Errorf("preparing connections to %s: %w", t.Address, err)
	}
	connector, err := mysql.NewConnector(c)
	if err != nil {
		return nil, fmt.Errorf("preparing connections to %s: %w", t.Address, err)
	}
	p := sql.OpenDB(connector)
	p.SetMaxOpenConns(connections)
	p.SetConnMaxIdleTime(idle)
	p.SetConnMaxLifetime(10 * idle)
	return p, nil
}

// tls is verify-full: the name and the chain of the target's certificate are checked, by the roots of now, and ours is shown.
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
		GetClientCertificate: func(r *tls.CertificateRequestInfo) (*tls.Certificate, error) { return b.cfg.Certificate(r.Context()) },
	}, nil
}

// harmless is all that SHOW GRANTS may say of us.
var harmless = regexp.MustCompile("^GRANT (USAGE ON \\*\\.\\* TO .*|EXECUTE ON PROCEDURE `segl`\\.`[a-z]+` TO [^ ]*)$")

// Check implements credentials.Backend.
func (b *Backend) Check(ctx context.Context, t credentials.Target) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	p, err := b.pool(t)
	if err != nil {
		return err
	}
	rows, err := p.QueryContext(ctx, "SHOW GRANTS")
	if err != nil {
		return explained(err)
	}
	defer rows.Close() //nolint:errcheck // its error is rows.Err's
	n := 0
	for rows.Next() {
		var grant string
		if err := rows.Scan(&grant); err != nil {
			return explained(err)
		}
		if !harmless.MatchString(grant) {
			return fmt.Errorf("%w: it has more than USAGE and EXECUTE of segl's procedures", credentials.ErrTooPowerful)
		}
		n++
	}
	if n < 2 || rows.Err() != nil {
		return fmt.Errorf("%w: run deploy/targets/mariadb.sql there", credentials.ErrUnprepared)
	}
	var at time.Time
	if err := p.QueryRowContext(ctx, "SELECT utc_timestamp(6)").Scan(&at); err != nil {
		return explained(err)
	}
	if off := at.Sub(b.cfg.Now()); off.Abs() > mostOff {
		return fmt.Errorf("%w: by %s", credentials.ErrClock, off.Round(time.Second))
	}
	return nil
}

// Make implements credentials.Backend.
func (b *Backend) Make(ctx context.Context, t credentials.Target, g credentials.Grant) ([]credentials.Receipt, error) {
	if err := b.Check(ctx, t); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	p, err := b.pool(t)
	if err != nil {
		return nil, err
	}
	before := b.cfg.Now().Add(grace).UTC()
	switch g.Way {
	case credentials.Leased:
		_, err = p.ExecContext(ctx, "CALL segl.make(?, ?, ?, ?, ?)", g.Principal, hash(g.Password.Reveal()), g.Connections, g.Group, before)
	case credentials.Certificate:
		_, err = p.ExecContext(ctx, "CALL segl.certify(?, ?, ?, ?, ?)", g.Principal, g.Subject, g.Connections, g.Group, before)
	default:
		return nil, fmt.Errorf("%w: passwords of existing accounts", credentials.ErrUnprepared)
	}
	if err != nil {
		return nil, explained(err)
	}
	return []credentials.Receipt{{Effect: credentials.LoginMade, At: b.cfg.Now()}}, nil
}

// hash is what a server keeps of a password: * and the hex of SHA1(SHA1(password)).
func hash(password string) string {
	one := sha1.Sum([]byte(password)) //nolint:gosec // as above
	two := sha1.Sum(one[:])           //nolint:gosec // as above
	return fmt.Sprintf("*%X", two[:])
}

// Extend implements credentials.Backend: an account has no end here, so that it is there is all.
func (b *Backend) Extend(ctx context.Context, t credentials.Target, g credentials.Grant) ([]credentials.Receipt, error) {
	if g.Way == credentials.Certificate {
		return nil, nil
	}
	list, err := b.Principals(ctx, t)
	if err != nil {
		return nil, err
	}
	for _, name := range list {
		if name == g.Principal {
			return []credentials.Receipt{{Effect: credentials.LoginExtended, At: b.cfg.Now()}}, nil
		}
	}
	return nil, fmt.Errorf("%w: login %s", credentials.ErrNotFound, g.Principal)
}

// End implements credentials.Backend.
func (b *Backend) End(ctx context.Context, t credentials.Target, list []credentials.Grant) ([]credentials.Ended, error) {
	p, err := b.pool(t)
	if err != nil {
		return nil, err
	}
	conn, err := p.Conn(ctx)
	if err != nil {
		return nil, explained(err)
	}
	defer conn.Close() //nolint:errcheck // goes back to its pool
	out := make([]credentials.Ended, 0, len(list))
	for _, g := range list {
		e := credentials.Ended{Principal: g.Principal, Lease: g.Lease}
		e.Receipts, e.Err = b.end(ctx, conn, g)
		if errors.Is(e.Err, credentials.ErrUnreachable) {
			return nil, e.Err
		}
		out = append(out, e)
	}
	return out, nil
}

func (b *Backend) end(ctx context.Context, conn *sql.Conn, g credentials.Grant) ([]credentials.Receipt, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if _, err := conn.ExecContext(ctx, "CALL segl.finish(?, @sessions, @was)", g.Principal); err != nil {
		return nil, explained(err)
	}
	var sessions int
	var was bool
	if err := conn.QueryRowContext(ctx, "SELECT @sessions, @was").Scan(&sessions, &was); err != nil {
		return nil, explained(err)
	}
	now := b.cfg.Now()
	ended := credentials.Receipt{Effect: credentials.SessionsEnded, Count: sessions, At: now}
	switch {
	case !was:
		return []credentials.Receipt{{Effect: credentials.WasNotThere, At: now}}, nil
	case g.Way == credentials.Certificate:
		return []credentials.Receipt{ended}, nil
	}
	return []credentials.Receipt{{Effect: credentials.LoginClosed, At: now}, ended, {Effect: credentials.LoginDropped, At: now}}, nil
}

// Principals implements credentials.Backend.
func (b *Backend) Principals(ctx context.Context, t credentials.Target) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	p, err := b.pool(t)
	if err != nil {
		return nil, err
	}
	rows, err := p.QueryContext(ctx, "CALL segl.principals()")
	if err != nil {
		return nil, explained(err)
	}
	defer rows.Close() //nolint:errcheck // its error is rows.Err's
	var out []string
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			return nil, explained(err)
		}
		out = append(out, name)
	}
	return out, explained(rows.Err())
}

// explained says what an error of a target means.
func explained(err error) error {
	if err == nil {
		return nil
	}
	e, ok := errors.AsType[*mysql.MySQLError](err)
	if !ok {
		return fmt.Errorf("%w: %w", credentials.ErrUnreachable, err)
	}
	switch {
	case string(e.SQLState[:]) == "45000" && e.Message == "group":
		return fmt.Errorf("%w: grant it to segl_owner@localhost WITH ADMIN OPTION", credentials.ErrGroup)
	case string(e.SQLState[:]) == "45000":
		return fmt.Errorf("%w: it was too slow", credentials.ErrUnreachable)
	case e.Number == 1045 || e.Number == 1370 || e.Number == 1305 || e.Number == 1044 || e.Number == 1142 || e.Number == 1227:
		return fmt.Errorf("%w: %s; run deploy/targets/mariadb.sql there", credentials.ErrUnprepared, e.Message)
	}
	return fmt.Errorf("the target refused: %s (error %d)", e.Message, e.Number)
}
