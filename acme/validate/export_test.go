package validate

import "net/netip"

// ParseIssue shows how an issue-value is read.
func ParseIssue(s string) (issuer string, parameters [][2]string, ok bool) {
	v, ok := parseIssue(s)
	for _, p := range v.parameters {
		parameters = append(parameters, [2]string{p.tag, p.value})
	}
	return v.issuer, parameters, ok
}

// Check shows what e says of an address.
func Check(e Egress, to netip.AddrPort) error { return e.check(to) }

// Reverse shows an address's name for reverse look-up.
func Reverse(a netip.Addr) string { return reverse(a) }
