// Package redis makes leases true at Redis servers, 7 and newer, and at Valkey, as users of their access control lists.
//
// A group is a user that is off: what it may do is what a lease may do. A server knows no names of certificates, so we show
// ours and log in with a password besides; what a server keeps of a lease's password is its SHA-256, made here. Users have no
// end of their own here: the cascade ends them. Where the server has a file for its lists, it is saved after each change.
// A Backend is safe for concurrent use; Close it at the end.
package redis

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"codeberg.org/dataverket/segl/credentials"
)

// A Config says how targets are reached.
type Config struct {
	Certificate func(context.Context) (*tls.Certificate, error) // ours, as the client of a target
	Roots       func() *x509.CertPool                           // for targets that bring no authority of their own
	// Password returns that of our login at a target; empty: none is meant for it, and nothing is sent there. Whoever names a
	// target is sent it, so no two tenants may have the same.
	Password func(credentials.Target) credentials.Secret
	Now      func() time.Time
}

// Bounds of what a target may cost.
const (
	timeout     = 15 * time.Second
	connect     = 3 * time.Second
	connections = 8
	mostPools   = 256
	mostOff     = 30 * time.Second
)

// A Backend implements credentials.Backend.
type Backend struct {
	cfg Config

	mu    sync.Mutex // guards pools
	pools map[place]*redis.Client
}

// A place is a target as one tenant, or the platform, names it: connections are not shared between them, as passwords are not.
type place struct{ address, authority, manager, tenant string }

// New returns a Backend that knows no target yet.
func New(c Config) *Backend { return &Backend{cfg: c, pools: make(map[place]*redis.Client)} }

// Close ends every connection.
func (b *Backend) Close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for at, p := range b.pools {
		p.Close() //nolint:errcheck // nothing of it is needed any more
		delete(b.pools, at)
	}
}

func (b *Backend) pool(t credentials.Target) (*redis.Client, error) {
	password := func() string { return b.cfg.Password(t).Reveal() }
	if password() == "" {
		return nil, fmt.Errorf("%w: there is no password for targets of %s: set leases.redis_password_file(s)", credentials.ErrUnprepared, t.Scope)
	}
	at := place{t.Address, t.Authority, t.Manager, t.Scope.Tenant()}
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
	host, _, err := net.SplitHostPort(t.Address)
	if err != nil {
		return nil, fmt.Errorf("reading address %q: %w", t.Address, err)
	}
	if _, err := b.tls(t, host); err != nil {
		return nil, err
	}
	b.pools[at] = redis.NewClient(&redis.Options{
		Addr: t.Address, Username: t.Manager, CredentialsProvider: func() (string, string) { return t.Manager, password() },
		DialTimeout: connect, ReadTimeout: timeout, WriteTimeout: timeout, PoolSize: connections, MaxRetries: -1, DisableIdentity: true, Protocol: 3,
		Dialer: func(ctx context.Context, network, address string) (net.Conn, error) { // roots rotate while a pool is kept
			c, err := b.tls(t, host)
			if err != nil {
				return nil, err
			}
			return (&tls.Dialer{NetDialer: &net.Dialer{Timeout: connect}, Config: c}).DialContext(ctx, network, address)
		},
	})
	return b.pools[at], nil
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

// rules are what a user may do, as ACL GETUSER says it.
type rules struct {
	flags                    []string
	commands, keys, channels string
}

// user reads a user; ok is false where there is none.
func user(ctx context.Context, p *redis.Client, name string) (r rules, ok bool, err error) {
	got, err := p.Do(ctx, "ACL", "GETUSER", name).Result()
	if errors.Is(err, redis.Nil) || err == nil && got == nil {
		return r, false, nil
	}
	if err != nil {
		return r, false, explained(err)
	}
	m, ok := got.(map[any]any)
	if !ok {
		return r, false, fmt.Errorf("%w: ACL GETUSER answers in a form not known here", credentials.ErrUnprepared)
	}
	list, _ := m["flags"].([]any)
	for _, f := range list {
		r.flags = append(r.flags, fmt.Sprint(f))
	}
	r.commands, _ = m["commands"].(string)
	r.keys, _ = m["keys"].(string)
	r.channels, _ = m["channels"].(string)
	return r, true, nil
}

// Check implements credentials.Backend. Whoever may set users' rights could give itself any: that is all we may, and no data.
func (b *Backend) Check(ctx context.Context, t credentials.Target) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	p, err := b.pool(t)
	if err != nil {
		return err
	}
	own, ok, err := user(ctx, p, t.Manager)
	switch {
	case err != nil:
		return err
	case !ok:
		return fmt.Errorf("%w: there is no user %s", credentials.ErrUnprepared, t.Manager)
	case own.keys != "" || own.channels != "" || !strings.HasPrefix(own.commands, "-@all") || strings.Contains(own.commands, "+@"):
		return fmt.Errorf("%w: it reaches keys, channels, or whole categories of commands", credentials.ErrTooPowerful)
	}
	at, err := p.Time(ctx).Result()
	if err != nil {
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
	if g.Way != credentials.Leased || !strings.HasPrefix(g.Principal, credentials.Prefix) {
		return nil, fmt.Errorf("%w: only leased logins", credentials.ErrUnprepared)
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	p, err := b.pool(t)
	if err != nil {
		return nil, err
	}
	like, ok, err := user(ctx, p, g.Group)
	if err != nil {
		return nil, err
	}
	if !ok || !slices.Contains(like.flags, "off") {
		return nil, fmt.Errorf("%w: a group is a user that is off", credentials.ErrGroup)
	}
	sum := sha256.Sum256([]byte(g.Password.Reveal()))
	args := []any{"ACL", "SETUSER", g.Principal, "reset", "on", "#" + hex.EncodeToString(sum[:])}
	for _, rule := range strings.Fields(like.keys + " " + like.channels + " " + like.commands) {
		args = append(args, rule)
	}
	if err := p.Do(ctx, args...).Err(); err != nil {
		return nil, explained(err)
	}
	b.save(ctx, p)
	return []credentials.Receipt{{Effect: credentials.LoginMade, At: b.cfg.Now()}}, nil
}

// save keeps the lists over a restart, where the server has a file for them.
func (b *Backend) save(ctx context.Context, p *redis.Client) {
	p.Do(ctx, "ACL", "SAVE") //nolint:errcheck // without a file there is nothing to save: leases then end with the server
}

// Extend implements credentials.Backend: a user has no end here, so that it is there is all.
func (b *Backend) Extend(ctx context.Context, t credentials.Target, g credentials.Grant) ([]credentials.Receipt, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	p, err := b.pool(t)
	if err != nil {
		return nil, err
	}
	if _, ok, err := user(ctx, p, g.Principal); err != nil || !ok {
		return nil, errors.Join(err, fmt.Errorf("%w: login %s", credentials.ErrNotFound, g.Principal))
	}
	return []credentials.Receipt{{Effect: credentials.LoginExtended, At: b.cfg.Now()}}, nil
}

// End implements credentials.Backend.
func (b *Backend) End(ctx context.Context, t credentials.Target, list []credentials.Grant) ([]credentials.Ended, error) {
	p, err := b.pool(t)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*timeout)
	defer cancel()
	if err := p.Ping(ctx).Err(); err != nil && !strings.HasPrefix(err.Error(), "NOPERM") {
		return nil, explained(err)
	}
	out := make([]credentials.Ended, 0, len(list))
	for _, g := range list {
		e := credentials.Ended{Principal: g.Principal, Lease: g.Lease}
		e.Receipts, e.Err = b.end(ctx, p, g.Principal)
		if errors.Is(e.Err, credentials.ErrUnreachable) {
			return nil, e.Err
		}
		out = append(out, e)
	}
	b.save(ctx, p)
	return out, nil
}

func (b *Backend) end(ctx context.Context, p *redis.Client, name string) ([]credentials.Receipt, error) {
	_, there, err := user(ctx, p, name)
	if err != nil {
		return nil, err
	}
	if !there || !strings.HasPrefix(name, credentials.Prefix) {
		return []credentials.Receipt{{Effect: credentials.WasNotThere, At: b.cfg.Now()}}, nil
	}
	if err := p.Do(ctx, "ACL", "SETUSER", name, "off", "resetpass").Err(); err != nil {
		return nil, explained(err)
	}
	closed := b.cfg.Now()
	n, err := p.Do(ctx, "CLIENT", "KILL", "USER", name).Int()
	if err != nil {
		return nil, explained(err)
	}
	if err := p.Do(ctx, "ACL", "DELUSER", name).Err(); err != nil {
		return nil, explained(err)
	}
	now := b.cfg.Now()
	return []credentials.Receipt{
		{Effect: credentials.LoginClosed, At: closed}, {Effect: credentials.SessionsEnded, Count: n, At: now}, {Effect: credentials.LoginDropped, At: now},
	}, nil
}

// Principals implements credentials.Backend.
func (b *Backend) Principals(ctx context.Context, t credentials.Target) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	p, err := b.pool(t)
	if err != nil {
		return nil, err
	}
	all, err := p.Do(ctx, "ACL", "USERS").StringSlice()
	if err != nil {
		return nil, explained(err)
	}
	return slices.DeleteFunc(all, func(name string) bool { return !strings.HasPrefix(name, credentials.Prefix) }), nil
}

// explained says what an error of a target means.
func explained(err error) error {
	if err == nil {
		return nil
	}
	said := err.Error()
	switch {
	case strings.HasPrefix(said, "WRONGPASS"), strings.HasPrefix(said, "NOAUTH"), strings.HasPrefix(said, "NOPERM"):
		return fmt.Errorf("%w: our login may not do that; see deploy/targets/redis.acl", credentials.ErrUnprepared)
	case strings.HasPrefix(said, "ERR"):
		return fmt.Errorf("the target refused: %s", said)
	}
	return fmt.Errorf("%w: %w", credentials.ErrUnreachable, err)
}
