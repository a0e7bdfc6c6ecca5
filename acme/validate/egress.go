package validate

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
)

// An Egress says where validation may connect. The zero Egress allows everything but what is never allowed (link-local
// and cloud metadata, multicast, unspecified, reserved) and loopback.
type Egress struct {
	// Allowed, when not nil, are the only ranges that may be reached.
	Allowed []netip.Prefix
	// Denied ranges are not reached, whatever is allowed.
	Denied []netip.Prefix
	// Loopback allows 127.0.0.0/8 and ::1, for a scope that may have such names.
	Loopback bool
	// Own are the listeners of this program: never reached, on any of the host's addresses when the listener's is
	// unspecified.
	Own []netip.AddrPort
	// RedirectToAddress lets http-01 for a DNS name follow a redirect to an address.
	RedirectToAddress bool
}

// A refusal says which rule keeps validation from an address.
type refusal string

func (r refusal) Error() string { return "validation may not go there: " + string(r) }

// never lists what no configuration opens, each with its reason.
var never = []struct {
	prefix netip.Prefix
	why    refusal
}{
	{netip.MustParsePrefix("0.0.0.0/8"), "unspecified address (RFC 6890)"},
	{netip.MustParsePrefix("169.254.0.0/16"), "link-local address and cloud metadata (RFC 3927)"},
	{netip.MustParsePrefix("224.0.0.0/4"), "multicast address (RFC 5771)"},
	{netip.MustParsePrefix("240.0.0.0/4"), "reserved address (RFC 1112 §4)"},
	{netip.MustParsePrefix("100.100.100.200/32"), "cloud metadata"},
	{netip.MustParsePrefix("168.63.129.16/32"), "cloud metadata"},
	{netip.MustParsePrefix("192.0.0.192/32"), "cloud metadata"},
	{netip.MustParsePrefix("fd00:ec2::254/128"), "cloud metadata"},
	{netip.MustParsePrefix("fd20:ce::254/128"), "cloud metadata"},
	{netip.MustParsePrefix("::/128"), "unspecified address (RFC 4291 §2.5.2)"},
	{netip.MustParsePrefix("fe80::/10"), "link-local address (RFC 4291 §2.5.6)"},
	{netip.MustParsePrefix("ff00::/8"), "multicast address (RFC 4291 §2.7)"},
}

// check returns nil if to may be dialled, else the rule that forbids it. An IPv6 address that carries IPv4 ones leads to
// them: it is forbidden by what forbids itself, and allowed by what allows them.
func (e Egress) check(to netip.AddrPort) error {
	a := to.Addr().Unmap().WithZone("")
	inner := embedded(a)
	for _, each := range append(inner, a) {
		if err := e.forbids(each); err != nil {
			return err
		}
		if err := e.checkOwn(netip.AddrPortFrom(each, to.Port())); err != nil {
			return err
		}
	}
	if len(inner) == 0 {
		return e.allows(a)
	}
	for _, each := range inner {
		if err := e.allows(each); err != nil {
			return err
		}
	}
	return nil
}

func (e Egress) forbids(a netip.Addr) error {
	for _, n := range never {
		if n.prefix.Contains(a) {
			return n.why
		}
	}
	if a.IsLoopback() && !e.Loopback {
		return refusal("loopback address")
	}
	for _, p := range e.Denied {
		if p.Contains(a) {
			return refusal("in the denied range " + p.String())
		}
	}
	return nil
}

func (e Egress) allows(a netip.Addr) error {
	if e.Allowed == nil {
		return nil
	}
	for _, p := range e.Allowed {
		if p.Contains(a) {
			return nil
		}
	}
	return refusal("outside the allowed ranges")
}

func (e Egress) checkOwn(to netip.AddrPort) error {
	for _, own := range e.Own {
		if own.Port() != to.Port() {
			continue
		}
		if own.Addr().Unmap() == to.Addr() || own.Addr().IsUnspecified() && isOurs(to.Addr()) {
			return refusal("a listener of this service")
		}
	}
	return nil
}

// isOurs reports whether a is an address of this host; when that cannot be found out, it is.
func isOurs(a netip.Addr) bool {
	if a.IsLoopback() {
		return true
	}
	list, err := net.InterfaceAddrs()
	if err != nil {
		return true
	}
	for _, i := range list {
		if p, err := netip.ParsePrefix(i.String()); err == nil && p.Addr().Unmap() == a {
			return true
		}
	}
	return false
}

// plainReason says why a connection was not made, in words that do not depend on the system and tell nothing of us.
func plainReason(err error) error {
	var r refusal
	switch {
	case errors.As(err, &r):
		return r
	case errors.Is(err, syscall.ECONNREFUSED):
		return errors.New("connection refused")
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return errors.New("connection reset")
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.EADDRNOTAVAIL):
		return errors.New("no route")
	case errors.Is(err, os.ErrDeadlineExceeded), isTimeout(err):
		return errors.New("no answer in time")
	}
	return fmt.Errorf("connection ended: %s", printable(err.Error()))
}

func isTimeout(err error) bool {
	var n net.Error
	return errors.As(err, &n) && n.Timeout()
}
