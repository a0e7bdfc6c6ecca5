package validate

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"codeberg.org/dataverket/segl/acme"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
)

// Rules are how validation reaches out for one scope and everything below it. A scope narrows and never widens: an address
// must be allowed by every scope of the chain that says what is, and denied by none. The resolver and the ports are the
// nearest scope's that names them.
type Rules struct {
	Resolver          string // DNS server, HOST:PORT; empty: that of the scope above
	HTTPPort, TLSPort uint16 // zero: those of the scope above
	Allowed, Denied   []netip.Prefix
}

// A reach is how validation reaches out for one scope.
type reach struct {
	resolver          *resolver
	httpPort, tlsPort uint16
	egress            Egress
	narrower          []Egress // of scopes, the outermost first; all must let an address pass
}

// narrow returns r as rules narrow it.
func (r *reach) narrow(rules Rules) (*reach, error) {
	out := *r
	out.httpPort, out.tlsPort = cmp.Or(rules.HTTPPort, r.httpPort), cmp.Or(rules.TLSPort, r.tlsPort)
	if rules.Resolver != "" {
		var err error
		if out.resolver, err = newResolver(rules.Resolver); err != nil {
			return nil, err
		}
	}
	out.narrower = append(slices.Clip(r.narrower), Egress{Allowed: rules.Allowed, Denied: rules.Denied, Loopback: r.egress.Loopback})
	return &out, nil
}

// reaches makes one of each scope that has rules, a scope's from that of the one above it.
func reaches(base *reach, rules map[identity.Scope]Rules) (map[identity.Scope]*reach, error) {
	scopes := make([]identity.Scope, 0, len(rules))
	for s := range rules {
		scopes = append(scopes, s)
	}
	slices.SortFunc(scopes, func(a, b identity.Scope) int { return cmp.Compare(a.String(), b.String()) }) // a parent sorts first
	out := make(map[identity.Scope]*reach, len(rules))
	for _, s := range scopes {
		r, err := nearest(out, base, s).narrow(rules[s])
		if err != nil {
			return nil, fmt.Errorf("rules of scope %s: %w", s, err)
		}
		out[s] = r
	}
	return out, nil
}

func nearest(all map[identity.Scope]*reach, base *reach, s identity.Scope) *reach {
	for ok := true; ok; s, ok = s.Parent() {
		if r, has := all[s]; has {
			return r
		}
	}
	return base
}

// reach returns how validation reaches out for s.
func (v *Validator) reach(s identity.Scope) *reach { return nearest(v.scopes, v.base, s) }

// check returns nil if every rule lets to be dialled.
func (r *reach) check(to netip.AddrPort) error {
	if err := r.egress.check(to); err != nil {
		return err
	}
	for _, e := range r.narrower {
		if err := e.check(to); err != nil {
			return err
		}
	}
	return nil
}

// addresses resolves a name to what may be dialled, or says why nothing may.
func (r *reach) addresses(ctx context.Context, name cert.Name) ([]netip.Addr, *acme.Problem) {
	if name.Kind() == cert.IP {
		return []netip.Addr{name.Addr()}, nil
	}
	if isLocalhost(name.Value()) {
		return []netip.Addr{netip.IPv6Loopback(), netip.AddrFrom4([4]byte{127, 0, 0, 1})}, nil
	}
	return r.resolver.addresses(ctx, name.Value())
}

// isLocalhost reports whether name always means loopback (RFC 6761 §6.3: "recognize localhost names as special and …
// always return the IP loopback address").
func isLocalhost(name string) bool {
	return name == "localhost" || strings.HasSuffix(name, ".localhost")
}

// dial connects to the first address of name that answers on port. The address that passed the egress check is the
// address that is dialled: nothing resolves it again.
func (r *reach) dial(ctx context.Context, name cert.Name, port uint16) (net.Conn, netip.AddrPort, *acme.Problem) {
	found, p := r.addresses(ctx, name)
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
		conn, err := r.dialAddress(ctx, to)
		if err == nil {
			return conn, to, nil
		}
		failures = append(failures, fmt.Sprintf("%s: %s", to, err))
	}
	return nil, netip.AddrPort{}, refuse(acme.Connection, "connecting to %s: %s", name.Value(), strings.Join(failures, "; "))
}

func (r *reach) dialAddress(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	if err := r.check(to); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	d := net.Dialer{KeepAlive: -1} // it lasts one answer
	conn, err := d.DialContext(ctx, "tcp", to.String())
	if err != nil {
		return nil, plainReason(err)
	}
	return conn, nil
}
