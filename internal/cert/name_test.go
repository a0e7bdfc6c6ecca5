package cert_test

import (
	"math/big"
	"net/netip"
	"strings"
	"testing"
	"time"

	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/uid"
)

func TestParseDNSTakesOneSpelling(t *testing.T) {
	for _, s := range []string{
		"localhost", "a.demo.test", "*.demo.test", "1.demo.test", "a-b.demo.test", "xn--bcher-kva.test",
		strings.Repeat("a", 63) + ".test", strings.Repeat("a.", 126) + "a",
	} {
		if n, err := cert.ParseDNS(s); err != nil || n.Value() != s || n.Kind() != cert.DNS || n.Wildcard() != strings.HasPrefix(s, "*.") {
			t.Errorf("%s: %s, %v", s, n, err)
		}
	}
	for name, c := range map[string]struct{ s, says string }{
		"nothing":                {"", "empty"},
		"a dot":                  {".", "dot"},
		"a star":                 {"*", "left-most"},
		"a star and a dot":       {"*.", "dot"},
		"a leading dot":          {".demo.test", "empty label"},
		"two dots":               {"a..test", "empty label"},
		"a space":                {"a demo.test", "outside a-z"},
		"a NUL":                  {"a.demo.test\x00.evil.test", "outside a-z"},
		"a line break":           {"a.demo.test\n", "outside a-z"},
		"a port":                 {"a.demo.test:443", "outside a-z"},
		"a URL":                  {"https://a.demo.test", "outside a-z"},
		"an underscore":          {"_dmarc.demo.test", "underscore"},
		"a leading hyphen":       {"-a.test", "hyphen"},
		"a trailing hyphen":      {"a-.test", "hyphen"},
		"a label of 64":          {strings.Repeat("a", 64) + ".test", "63"},
		"254 octets":             {strings.Repeat("a.", 126) + "aa", "253"},
		"upper case":             {"A.test", "use a.test"},
		"a U-label":              {"bücher.test", "use xn--bcher-kva.test"},
		"a U-label under a star": {"*.bücher.test", "use *.xn--bcher-kva.test"},
		"an upper-case A-label":  {"XN--BCHER-KVA.test", "upper-case"},
		"a full-width letter":    {"ａ.test", "use a.test"},
		"an ideographic dot":     {"a。test", "use a.test"},
		"a soft hyphen":          {"a\u00adb.test", "use ab.test"},
		"broken UTF-8":           {"a\xff.test", ""},
		"an A-label of nothing":  {"xn--.test", ""},
		"an A-label of ASCII":    {"xn--a-.test", ""},
		"a reserved LDH label":   {"r3---sn-x.test", "IDNA"},
		"IPv4":                   {"192.0.2.1", "type ip"},
		"IPv4 in hexadecimal":    {"0x7f000001", "address"},
		"IPv4 in short":          {"127.1", "all-digit"},
		"IPv4 as a number":       {"2130706433", "all-digit"},
		"IPv6":                   {"::1", "type ip"},
		"IPv6 in brackets":       {"[::1]", "type ip"},
		"a wildcard address":     {"*.0.2.1", "all-digit"},
	} {
		if n, err := cert.ParseDNS(c.s); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %q %v, want a refusal that says %q", name, n, err, c.says)
		}
	}
}

func TestParseIPTakesOneSpelling(t *testing.T) {
	for _, s := range []string{"192.0.2.1", "2001:db8::1", "::1", "::"} {
		n, err := cert.ParseIP(s)
		if err != nil || n.Value() != s || n.Addr() != netip.MustParseAddr(s) || n != cert.IPName(n.Addr()) {
			t.Errorf("%s: %s, %v", s, n, err)
		}
	}
	for s, says := range map[string]string{
		"": "want an address", "a": "want an address", "192.0.2.1/32": "want an address", "192.0.2.01": "want an address", "1.2.3": "want an address",
		"fe80::1%eth0": "zone", "::ffff:192.0.2.1": "use 192.0.2.1", "2001:DB8::1": "use 2001:db8::1", "2001:db8:0::1": "use 2001:db8::1", "[::1]": "want an address",
	} {
		if n, err := cert.ParseIP(s); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %s %v, want a refusal that says %q", s, n, err, says)
		}
	}
	mapped := netip.MustParseAddr("::ffff:192.0.2.1")
	if n := cert.IPName(mapped); n.Value() != "192.0.2.1" {
		t.Errorf("the name of %s is %s", mapped, n)
	}
}

func TestParseURIRefuses(t *testing.T) {
	for _, s := range []string{
		"", "a", "/a", "urn:a:b", "spiffe:///a", "spiffe://", "SPIFFE://a/b", "spiffe://a/%zz", "spiffe://a/b c", "https://a\x00/b", "spiffe://ä/b",
		"spiffe://a/" + strings.Repeat("a", 2048),
	} {
		if n, err := cert.ParseURI(s); err == nil {
			t.Errorf("%q: took %s", s, n)
		}
	}
}

func TestParseNameRefusesOtherKinds(t *testing.T) {
	for _, s := range []string{"", "a.demo.test", "DNS:a.demo.test", "email:a@demo.test", "dns", "ip:a", "uri:a", "dns:"} {
		if n, err := cert.ParseName(s); err == nil {
			t.Errorf("%q: took %s", s, n)
		}
	}
}

func TestNamesOfDifferentKindsDiffer(t *testing.T) {
	var zero cert.Name
	if n := must(cert.ParseDNS("localhost")); n == zero || zero.Kind() != 0 || zero.String() != "none:" {
		t.Fatalf("%s equals the zero name %s", n, zero)
	}
}

var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func TestSerialsAreOurs(t *testing.T) {
	s := cert.NewSerial(7, noon)
	if back, err := cert.SerialFromInt(s.Int()); err != nil || back != s || !s.Time().Equal(noon) || s.Epoch() != uid.EpochOf(noon) {
		t.Fatalf("%s reads back as %s, %v", s, back, err)
	}
	if n := len(s.Int().Bytes()); n != 18 || s.Int().Sign() <= 0 {
		t.Fatalf("%d octets: RFC 5280 §4.1.2.2 allows 20 and wants them positive", n)
	}
	for name, n := range map[string]*big.Int{
		"none": nil, "zero": new(big.Int), "one": big.NewInt(1), "negative": new(big.Int).Neg(s.Int()), "19 octets": new(big.Int).Lsh(s.Int(), 8),
		"17 octets": new(big.Int).Rsh(s.Int(), 8), "an order's": new(big.Int).SetBytes(uid.New(uid.Order, 7, noon).Bytes()),
	} {
		if got, err := cert.SerialFromInt(n); err == nil {
			t.Errorf("%s: took %s", name, got)
		}
	}
	for _, text := range []string{"", strings.ToUpper("1a" + s.String()[2:]), s.String() + "00", s.String()[1:], "20" + s.String()[2:], "0x" + s.String()[2:]} {
		var v cert.Serial
		if err := v.UnmarshalText([]byte(text)); err == nil || !v.IsZero() {
			t.Errorf("%q: took %s", text, v)
		}
	}
	if _, err := cert.SerialFromBytes(s.Bytes()[1:]); err == nil {
		t.Error("took 17 octets")
	}
}

func TestReasons(t *testing.T) {
	for _, r := range []cert.Reason{
		cert.Unspecified, cert.KeyCompromise, cert.CACompromise, cert.AffiliationChanged, cert.Superseded, cert.CessationOfOperation,
		cert.PrivilegeWithdrawn, cert.AACompromise,
	} {
		byName, err := cert.ParseReason(r.String())
		byCode, err2 := cert.ReasonFromCode(int(r))
		if byName != r || byCode != r || err != nil || err2 != nil {
			t.Errorf("%s: %s %v, %s %v", r, byName, err, byCode, err2)
		}
	}
	for _, s := range []string{"", "KeyCompromise", "certificateHold", "removeFromCRL", "1"} {
		if r, err := cert.ParseReason(s); err == nil {
			t.Errorf("%q: took %s", s, r)
		}
	}
	for _, n := range []int{-1, 6, 7, 8, 11, 256, 257} { // RFC 5280 §5.3.1: "value 7 is not used"
		if r, err := cert.ReasonFromCode(n); err == nil {
			t.Errorf("%d: took %s", n, r)
		}
	}
	for _, r := range []cert.Reason{cert.CACompromise, cert.PrivilegeWithdrawn, cert.AACompromise} {
		if r.Subscriber() {
			t.Errorf("a holder may give %s", r)
		}
	}
}

func FuzzParseDNS(f *testing.F) {
	for _, s := range []string{"a.demo.test", "*.demo.test", "xn--bcher-kva.test", "bücher.test", "127.0.0.1", "a_b", "r3---sn.test", "xn--0.pt"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, err := cert.ParseDNS(s)
		if err != nil {
			return
		}
		if n.Value() != s || strings.ToLower(s) != s || strings.ContainsAny(s, "_/:@ \x00") || len(s) > 253 {
			t.Fatalf("%q taken as %s", s, n)
		}
		if _, err := netip.ParseAddr(s); err == nil {
			t.Fatalf("%q is an address", s)
		}
		if back, err := cert.ParseName(n.String()); err != nil || back != n {
			t.Fatalf("%s reads back as %s, %v", n, back, err)
		}
	})
}

func FuzzParseIP(f *testing.F) {
	for _, s := range []string{"192.0.2.1", "::1", "::ffff:1.2.3.4", "fe80::1%1", "2001:db8::"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if n, err := cert.ParseIP(s); err == nil && (n.Addr().String() != s || cert.IPName(n.Addr()) != n) {
			t.Fatalf("%q taken as %s", s, n)
		}
	})
}

func FuzzParseURI(f *testing.F) {
	for _, s := range []string{"spiffe://segl.test/tenant/demo/web", "https://a.test/?q#f", "urn:a:b", "a://b%2f/"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, err := cert.ParseURI(s)
		if err != nil {
			return
		}
		if back, err := cert.ParseName(n.String()); err != nil || back != n || n.Value() != s || len(s) > 2048 {
			t.Fatalf("%q taken as %s, read back as %s, %v", s, n, back, err)
		}
	})
}

func FuzzParseName(f *testing.F) {
	for _, s := range []string{"dns:a.demo.test", "ip:::1", "uri:spiffe://a/b", "none:"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if n, err := cert.ParseName(s); err == nil && n.String() != s {
			t.Fatalf("%q has a second spelling %s", s, n)
		}
	})
}

func FuzzParseSerial(f *testing.F) {
	f.Add(cert.NewSerial(1, noon).String())
	f.Fuzz(func(t *testing.T, s string) {
		v, err := cert.ParseSerial(s)
		if err != nil {
			return
		}
		back, err := cert.SerialFromInt(v.Int())
		if err != nil || back != v || v.String() != s || v.UID().Kind() != uid.Certificate {
			t.Fatalf("%q taken as %s, read back as %s, %v", s, v, back, err)
		}
	})
}
