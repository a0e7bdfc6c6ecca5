package acme_test

import (
	"net/netip"
	"testing"

	"codeberg.org/dataverket/segl/acme"
)

func TestAHostOfManyAddressesCountsOnce(t *testing.T) {
	for address, want := range map[string]string{
		"192.0.2.7": "192.0.2.7", "::ffff:192.0.2.7": "192.0.2.7", "2001:db8:1:2:3:4:5:6": "2001:db8:1:2::", "2001:db8:1:2::": "2001:db8:1:2::",
		"2001:db8:1:3::1": "2001:db8:1:3::", "fe80::1%eth0": "fe80::",
	} {
		if got := acme.Network(netip.MustParseAddr(address)); got.String() != want {
			t.Errorf("%s counts as %s, want %s", address, got, want)
		}
	}
}
