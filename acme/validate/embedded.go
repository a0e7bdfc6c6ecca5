package validate

import "net/netip"

// carriers are the IPv6 ranges whose addresses lead to IPv4 ones, through a translator, a tunnel or the host itself, with
// where those stand.
var carriers = []struct {
	prefix netip.Prefix
	inner  func(b [16]byte) []netip.Addr
}{
	{netip.MustParsePrefix("::/96"), last},                // IPv4-compatible (RFC 4291 §2.5.5.1)
	{netip.MustParsePrefix("::ffff:0:0/96"), last},        // IPv4-mapped (RFC 4291 §2.5.5.2); unmapped before, were it not
	{netip.MustParsePrefix("::ffff:0:0:0/96"), last},      // IPv4-translated (RFC 2765 §2.1)
	{netip.MustParsePrefix("64:ff9b::/96"), last},         // NAT64, well-known (RFC 6052 §2.1)
	{netip.MustParsePrefix("64:ff9b:1::/48"), localNAT64}, // NAT64, of a network's own (RFC 8215)
	{netip.MustParsePrefix("2002::/16"), sixToFour},       // 6to4 (RFC 3056 §2)
	{netip.MustParsePrefix("2001::/32"), teredo},          // Teredo (RFC 4380 §4)
}

// embedded returns the IPv4 addresses that an IPv6 address leads to, none if it leads to itself.
func embedded(a netip.Addr) []netip.Addr {
	if !a.Is6() || a.IsLoopback() || a.IsUnspecified() {
		return nil
	}
	b := a.As16()
	for _, c := range carriers {
		if c.prefix.Contains(a) {
			return c.inner(b)
		}
	}
	// RFC 5214 §6.1: the interface identifier of ISATAP is 00-00-5E-FE or 02-00-5E-FE and the IPv4 address.
	if b[8]&^2 == 0 && b[9] == 0 && b[10] == 0x5e && b[11] == 0xfe {
		return last(b)
	}
	return nil
}

func four(b ...byte) netip.Addr { return netip.AddrFrom4([4]byte(b)) }

func last(b [16]byte) []netip.Addr { return []netip.Addr{four(b[12:16]...)} }

func sixToFour(b [16]byte) []netip.Addr { return []netip.Addr{four(b[2:6]...)} }

// teredo returns the server's address and the client's, which is written inverted.
func teredo(b [16]byte) []netip.Addr {
	return []netip.Addr{four(b[4:8]...), four(^b[12], ^b[13], ^b[14], ^b[15])}
}

// localNAT64 returns what each length of prefix below 64:ff9b:1::/48 would make of an address (RFC 6052 §2.2): which one a
// network uses is not known here. What reads as an address of "this network" (RFC 6890) leads nowhere, and is the prefix.
func localNAT64(b [16]byte) []netip.Addr {
	var out []netip.Addr
	for _, a := range []netip.Addr{four(b[6], b[7], b[9], b[10]), four(b[7], b[9], b[10], b[11]), four(b[9], b[10], b[11], b[12]), four(b[12:16]...)} {
		if a.As4()[0] != 0 {
			out = append(out, a)
		}
	}
	return out
}
