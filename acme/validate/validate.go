// Package validate asks the outside world whether an identifier's holder shows a key authorization: http-01 (RFC 8555
// §8.3), dns-01 (§8.4) and tls-alpn-01 (RFC 8737), for DNS names and addresses (RFC 8738).
//
// Whoever orders a certificate chooses where we connect, so everything here is bounded: time, octets, redirects, CNAMEs,
// addresses tried. Where we connect is an Egress's decision about the very address that is dialled, taken again for each
// redirect, so that a name that changes its address in between gains nothing. No proxy is taken from the environment,
// nothing is kept between two checks: no cookie, connection or cached answer. https certificates met after a redirect are
// not verified (RFC 8555 §8.3 starts from plain HTTP; a redirect to https proves no more and no less).
//
// The package decides nothing about accounts or orders and remembers nothing. A Validator is safe for concurrent use.
package validate

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"codeberg.org/dataverket/segl/acme"
	"codeberg.org/dataverket/segl/internal/cert"
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
	// HTTPPort and TLSPort are where http-01 and tls-alpn-01 connect. Zero: 80 and 443. Other ports are for tests only:
	// RFC 8555 §8.3 and RFC 8737 §3 name theirs because low ports are the administrator's.
	HTTPPort, TLSPort uint16
	// Egress says which addresses may be connected to.
	Egress Egress
}

// A Validator implements acme.Validator.
type Validator struct {
	resolver          *resolver
	httpPort, tlsPort uint16
	egress            Egress
}

// New returns a Validator. It reads /etc/resolv.conf when cfg names no resolver, and refuses a resolver that is no address.
func New(cfg Config) (*Validator, error) {
	r, err := newResolver(cfg.Resolver)
	if err != nil {
		return nil, err
	}
	v := &Validator{resolver: r, httpPort: cfg.HTTPPort, tlsPort: cfg.TLSPort, egress: cfg.Egress}
	if v.httpPort == 0 {
		v.httpPort = 80
	}
	if v.tlsPort == 0 {
		v.tlsPort = 443
	}
	return v, nil
}

// Validate performs c and returns what it saw, or why it does not count. It takes 20 seconds at most.
func (v *Validator) Validate(ctx context.Context, c acme.Check) (acme.Evidence, *acme.Problem) {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	if !offered(c) { // the domain offers no such challenge: this is the second lock on that door
		return acme.Evidence{}, refuse(acme.Malformed, "%s cannot prove control of %s", c.Method, c.Name)
	}
	switch c.Method {
	case acme.HTTP01:
		return v.http01(ctx, c)
	case acme.TLSALPN01:
		return v.tlsALPN01(ctx, c)
	case acme.DNS01:
		return v.dns01(ctx, c)
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

// addresses resolves a name to what may be dialled, or says why nothing may.
func (v *Validator) addresses(ctx context.Context, name cert.Name) ([]netip.Addr, *acme.Problem) {
	if name.Kind() == cert.IP {
		return []netip.Addr{name.Addr()}, nil
	}
	if isLocalhost(name.Value()) {
		return []netip.Addr{netip.IPv6Loopback(), netip.AddrFrom4([4]byte{127, 0, 0, 1})}, nil
	}
	return v.resolver.addresses(ctx, name.Value())
}

// isLocalhost reports whether name always means loopback (RFC 6761 §6.3: "recognize localhost names as special and …
// always return the IP loopback address").
func isLocalhost(name string) bool {
	return name == "localhost" || strings.HasSuffix(name, ".localhost")
}

// dial connects to the first address of name that answers on port. The address that passed the egress check is the
// address that is dialled: nothing resolves it again.
func (v *Validator) dial(ctx context.Context, name cert.Name, port uint16) (net.Conn, netip.AddrPort, *acme.Problem) {
	found, p := v.addresses(ctx, name)
	if p != nil {
		return nil, netip.AddrPort{}, p
	}
	var failures []string
	for i, a := range found {
		if i == maxAddresses {
			failures = append(failures, fmt.Sprintf("%d more not tried", len(found)-i))
			break
		}
		to := netip.AddrPortFrom(a.Unmap(), port)
		conn, err := v.dialAddress(ctx, to)
		if err == nil {
			return conn, to, nil
		}
		failures = append(failures, fmt.Sprintf("%s: %s", to, err))
	}
	return nil, netip.AddrPort{}, refuse(acme.Connection, "connecting to %s: %s", name.Value(), strings.Join(failures, "; "))
}

func (v *Validator) dialAddress(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	if err := v.egress.check(to); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", to.String())
	if err != nil {
		return nil, plainReason(err)
	}
	return conn, nil
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
