package cert

import (
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/idna"
)

// A NameKind is the kind of a subject alternative name (RFC 5280 §4.2.1.6).
type NameKind uint8

// The kinds of names Segl issues.
const (
	DNS NameKind = iota + 1
	IP
	URI
	Device // a permanent identifier (RFC 4043): what ACME proves of a device; no certificate of ours has it as it is
)

func (k NameKind) String() string {
	switch k {
	case DNS:
		return "dns"
	case IP:
		return "ip"
	case URI:
		return "uri"
	case Device:
		return "permanent-identifier"
	}
	return "none"
}

// A Name is one subject alternative name in its only spelling: DNS names are lower-case A-labels with no trailing dot, IP
// addresses are unmapped and canonical (RFC 5952), URIs are exactly as parsed. Names compare with ==.
type Name struct {
	kind NameKind
	v    string
}

// strictNames checks labels as UTS #46 does without its transition, with the hyphen, joiner and bidi rules of IDNA 2008, and
// A-labels by round trip (RFC 5891 §5.4). Looser than RFC 5892: it takes symbols, which some registries sell.
var strictNames = idna.New(idna.ValidateLabels(true), idna.CheckHyphens(true), idna.CheckJoiners(true),
	idna.StrictDomainName(true), idna.BidiRule(), idna.MapForLookup(), idna.Transitional(false))

// ParseDNS reads a DNS name, or a wildcard whose left-most label is "*" (RFC 6125 §6.4.3). Requests carry the certificate's
// own form: lower case, A-labels, no trailing dot; anything else is refused with the form that would be taken.
func ParseDNS(s string) (Name, error) {
	refuse := func(why string) (Name, error) { return Name{}, fmt.Errorf("dns name %.80q: %s", s, why) }
	switch {
	case s == "":
		return refuse("empty: give at least one label")
	case len(s) > 253:
		return refuse("longer than 253 octets (RFC 1035 §2.3.4)")
	case strings.HasSuffix(s, "."):
		return refuse("ends in a dot: leave the dot out (RFC 5280 §4.2.1.6)")
	}
	rest := strings.TrimPrefix(s, "*.")
	if strings.Contains(rest, "*") {
		return refuse("a wildcard may only be the whole left-most label (RFC 6125 §6.4.3)")
	}
	if _, err := netip.ParseAddr(strings.Trim(rest, "[]")); err == nil {
		return refuse("an IP address is not a DNS name: ask for it as type ip (RFC 8738 §3)")
	}
	if rest != strings.ToLower(rest) {
		return refuse("has upper-case letters: use " + strings.ToLower(s))
	}
	labels := strings.Split(rest, ".")
	for _, l := range labels {
		if why := badLabel(l); why != "" {
			return refuse(why)
		}
	}
	if numeric(labels[len(labels)-1]) {
		return refuse("ends in an all-digit or hexadecimal label, which reads as an address (RFC 3696 §2; WHATWG URL §3.5)")
	}
	if !slices.ContainsFunc(labels, international) {
		return Name{DNS, s}, nil
	}
	if a, err := strictNames.ToASCII(rest); err != nil {
		return refuse("has a label that is not valid IDNA 2008 (RFC 5891 §5.4)")
	} else if a != rest {
		return refuse("is not in A-label form: use " + strings.Replace(s, rest, a, 1))
	}
	return Name{DNS, s}, nil
}

// international reports whether IDNA has anything to say of a label that badLabel took: one that is not ASCII, or that has
// hyphens where A-labels have them (RFC 5890 §2.3.1). Most names have none.
func international(l string) bool {
	return len(l) > 3 && l[2:4] == "--" || strings.ContainsFunc(l, func(r rune) bool { return r >= utf8.RuneSelf })
}

func badLabel(l string) string {
	switch {
	case l == "":
		return "has an empty label (RFC 1034 §3.5)"
	case len(l) > 63:
		return "has a label longer than 63 octets (RFC 1034 §3.1)"
	case strings.Contains(l, "_"):
		return "has an underscore, which no host name may (RFC 1034 §3.5)"
	case l[0] == '-' || l[len(l)-1] == '-':
		return "has a label that begins or ends with a hyphen (RFC 1034 §3.5)"
	}
	for _, c := range []byte(l) {
		ok := c == '-' || '0' <= c && c <= '9' || 'a' <= c && c <= 'z'
		if !ok && c < 0x80 {
			return "has a character outside a-z, 0-9 and hyphen (RFC 1034 §3.5)"
		}
	}
	return ""
}

func numeric(s string) bool {
	hex, ok := strings.CutPrefix(s, "0x")
	return strings.Trim(s, "0123456789") == "" || ok && strings.Trim(hex, "0123456789abcdef") == ""
}

// ParseIP reads an IPv4 or IPv6 address in canonical text (RFC 5952 §4). Zones and IPv4-mapped IPv6 are refused.
func ParseIP(s string) (Name, error) {
	a, err := netip.ParseAddr(s)
	switch {
	case err != nil:
		return Name{}, fmt.Errorf("ip %.80q: want an address such as 192.0.2.1 or 2001:db8::1", s)
	case a.Zone() != "":
		return Name{}, fmt.Errorf("ip %.80q: a zone means nothing to others: leave it out", s)
	case a.Is4In6():
		return Name{}, fmt.Errorf("ip %.80q: IPv4 in IPv6 form: use %s", s, a.Unmap())
	case a.String() != s:
		return Name{}, fmt.Errorf("ip %.80q: not in canonical form: use %s (RFC 5952 §4)", s, a)
	}
	return Name{IP, s}, nil
}

// IPName returns the name of an address.
func IPName(a netip.Addr) Name { return Name{IP, a.Unmap().WithZone("").String()} }

// ParseURI reads an absolute URI with a host, as RFC 5280 §4.2.1.6 wants it, at most 2048 octets (SPIFFE-ID §2.3).
func ParseURI(s string) (Name, error) {
	u, err := url.Parse(s)
	if err != nil || len(s) > 2048 || u.Scheme == "" || u.Host == "" || u.String() != s {
		return Name{}, fmt.Errorf("uri %.80q: want an absolute URI with a host, in canonical form, up to 2048 octets", s)
	}
	return Name{URI, s}, nil
}

// ParseDevice reads a permanent identifier as makers write them: letters, digits, hyphen, dot and underscore, up to 56. Others
// would fit no identity.
func ParseDevice(s string) (Name, error) {
	const most = 63 - len(devicePrefix)
	ok := s != "" && len(s) <= most && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._") == ""
	if !ok {
		return Name{}, fmt.Errorf("permanent identifier %.80q: want 1 to %d letters, digits, hyphens, dots and underscores, and no assigner", s, most)
	}
	return Name{Device, s}, nil
}

const devicePrefix = "device-"

// DeviceWorkload returns the last part of the identity that device n gets.
func DeviceWorkload(n Name) string { return devicePrefix + strings.ToLower(n.v) }

// Kind returns the kind of n; the zero Name has none.
func (n Name) Kind() NameKind { return n.kind }

// Value returns the name as a certificate carries it.
func (n Name) Value() string { return n.v }

// Addr returns the address of an IP name.
func (n Name) Addr() netip.Addr {
	a, _ := netip.ParseAddr(n.v)
	return a
}

// Wildcard reports whether n is a DNS name that begins with "*.".
func (n Name) Wildcard() bool { return n.kind == DNS && strings.HasPrefix(n.v, "*.") }

// String returns kind and value, as in "dns:example.test".
func (n Name) String() string { return n.kind.String() + ":" + n.v }

// ParseName reads what String wrote.
func ParseName(s string) (Name, error) {
	kind, v, _ := strings.Cut(s, ":")
	switch kind {
	case "dns":
		return ParseDNS(v)
	case "ip":
		return ParseIP(v)
	case "uri":
		return ParseURI(v)
	case "permanent-identifier":
		return ParseDevice(v)
	}
	return Name{}, fmt.Errorf("name %.80q: want dns:, ip:, uri: or permanent-identifier: and a value", s)
}
