// Package validate asks the outside world whether an identifier's holder shows a key authorization: http-01 (RFC 8555
// §8.3), dns-01 (§8.4), tls-alpn-01 (RFC 8737), and by draft dns-account-01 and dns-persist-01, for DNS names and addresses
// (RFC 8738); and whether its owner lets us issue (CAA, RFC 8659 and RFC 8657).
//
// Whoever orders a certificate chooses where we connect, so everything here is bounded: time, octets, redirects, CNAMEs,
// addresses tried. Where we connect is an Egress's decision about the very address that is dialled, taken again for each
// redirect, so that a name that changes its address in between gains nothing; a scope may narrow it (Rules). No proxy is taken from the environment,
// nothing is kept between two checks: no cookie, connection or cached answer. https certificates met after a redirect are
// not verified (RFC 8555 §8.3 starts from plain HTTP; a redirect to https proves no more and no less).
//
// The package decides nothing about accounts or orders and remembers nothing. A Validator is safe for concurrent use.
package validate

import (
	"cmp"
	"context"
	"net"
	"time"

	"codeberg.org/dataverket/segl/acme"
	"codeberg.org/dataverket/segl/internal/identity"
)

// Bounds of one check.
const (
	dialTimeout  = 5 * time.Second
	checkTimeout = 20 * time.Second
	maxAddresses = 4 // tried for one name
)

// A Config says how validation reaches out. The zero Config uses ports 80 and 443, the system's DNS servers and the
// default Egress.
type Config struct {
	// Resolver is the DNS server to ask, HOST:PORT with an address for a host. Empty: those of /etc/resolv.conf.
	Resolver string
	// HTTPPort and TLSPort are where http-01 and tls-alpn-01 connect. Zero: 80 and 443. RFC 8555 §8.3 and RFC 8737 §3 name
	// theirs because low ports are the administrator's: others are for networks where that is otherwise so, and for tests.
	HTTPPort, TLSPort uint16
	// Egress says which addresses may be connected to.
	Egress Egress
	// Scopes narrow all this for scopes and what is below them.
	Scopes map[identity.Scope]Rules
	// CAA says whose records let us issue, and by which names dns-persist-01 records name us.
	CAA CAA
	// Within bounds a check: all its connections, redirects and look-ups together. Zero: 20 seconds. It must stay below what
	// whoever asks leases a validation for.
	Within time.Duration
	// Now is the clock that dns-persist-01 records expire by. Nil: none of them that expires is taken.
	Now func() time.Time
}

// A Validator implements acme.Validator and acme.Permission.
type Validator struct {
	base   *reach
	scopes map[identity.Scope]*reach
	caa    CAA
	within time.Duration
	now    func() time.Time
}

// New returns a Validator. It reads /etc/resolv.conf when cfg names no resolver, and refuses a resolver that is no address.
func New(cfg Config) (*Validator, error) {
	r, err := newResolver(cfg.Resolver)
	if err != nil {
		return nil, err
	}
	if err := cfg.CAA.check(); err != nil {
		return nil, err
	}
	v := &Validator{caa: cfg.CAA, within: cmp.Or(cfg.Within, checkTimeout), now: cfg.Now}
	v.base = &reach{resolver: r, httpPort: cmp.Or(cfg.HTTPPort, 80), tlsPort: cmp.Or(cfg.TLSPort, 443), egress: cfg.Egress}
	v.scopes, err = reaches(v.base, cfg.Scopes)
	return v, err
}

// Validate performs c and returns what it saw, or why it does not count. It takes no longer than Config.Within.
func (v *Validator) Validate(ctx context.Context, c acme.Check) (acme.Evidence, *acme.Problem) {
	ctx, cancel := context.WithTimeout(ctx, v.within)
	defer cancel()
	if !offered(c) { // the domain offers no such challenge: this is the second lock on that door
		return acme.Evidence{}, refuse(acme.Malformed, "%s cannot prove control of %s", c.Method, c.Name)
	}
	r := v.reach(c.Scope)
	switch c.Method {
	case acme.HTTP01:
		return r.http01(ctx, c)
	case acme.TLSALPN01:
		return r.tlsALPN01(ctx, c)
	case acme.DNS01:
		return r.dns01(ctx, c, "_acme-challenge.")
	case acme.DNSAccount01:
		return r.dnsAccount01(ctx, c)
	case acme.DNSPersist01:
		return v.dnsPersist01(ctx, c)
	}
	return acme.Evidence{}, refuse(acme.Malformed, "no such challenge type %.40q", c.Method)
}

func offered(c acme.Check) bool {
	for _, m := range acme.MethodsFor(c.Name) {
		if m == c.Method {
			return true
		}
	}
	return false
}

// deadline makes conn end when ctx does: by its deadline, or at once when it is cancelled.
func deadline(ctx context.Context, conn net.Conn) (stop func() bool) {
	if t, ok := ctx.Deadline(); ok {
		conn.SetDeadline(t) //nolint:errcheck // a connection that cannot have one fails at the next read
	}
	return context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) }) //nolint:errcheck // same
}

func refuse(t acme.ErrorType, format string, args ...any) *acme.Problem {
	return acme.NewProblem(t, format, args...)
}
