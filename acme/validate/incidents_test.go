package validate_test

import (
	"net"
	"net/http"
	"net/netip"
	"testing"
	"time"

	"github.com/miekg/dns"

	"codeberg.org/dataverket/segl/acme"
	"codeberg.org/dataverket/segl/acme/validate"
	"codeberg.org/dataverket/segl/acme/validate/dnstest"
)

// What public CAs and their validators have met, each once more.

// drip sends text an octet at a time, so slowly that no read ever times out by itself.
func drip(text string) func(net.Conn) {
	return func(c net.Conn) {
		c.SetDeadline(time.Now().Add(time.Minute)) //nolint:errcheck // fails the test by being late
		for i := 0; ; i++ {
			if _, err := c.Write([]byte{text[i%len(text)]}); err != nil {
				return
			}
			buf := make([]byte, 1)
			c.SetReadDeadline(time.Now().Add(5 * time.Millisecond)) //nolint:errcheck // the pace
			if _, err := c.Read(buf); err != nil && !isTimeout(err) {
				return
			}
		}
	}
}

func isTimeout(err error) bool {
	n, ok := err.(net.Error) //nolint:errorlint // what net returns
	return ok && n.Timeout()
}

func TestASlowTargetIsLeftInTime(t *testing.T) {
	for what, text := range map[string]string{
		"a header without end": "X-Filler: x\r\n", "one line without end": "HTTP/1.1 200 OK and so on", "a body without end": "HTTP/1.1 200 OK\r\n\r\n",
	} {
		for _, m := range []acme.Method{acme.HTTP01, acme.TLSALPN01} {
			t.Run(what+" by "+string(m), func(t *testing.T) {
				l := serve(t, drip(text))
				v := newValidator(t, validate.Config{HTTPPort: port(t, l), TLSPort: port(t, l), Egress: loopback, Within: 200 * time.Millisecond})
				began := time.Now()
				if _, p := v.Validate(t.Context(), check(t, m, "ip:127.0.0.1")); p == nil {
					t.Error("accepted")
				}
				if d := time.Since(began); d > 5*time.Second {
					t.Errorf("left after %s", d)
				}
			})
		}
	}
}

func TestASilentResolverIsLeftInTime(t *testing.T) {
	d := dnstest.New(t)
	d.Answer(func(*dns.Msg) *dns.Msg { return nil })
	v := newValidator(t, validate.Config{Resolver: d.Addr, CAA: us, Within: 200 * time.Millisecond})
	began := time.Now()
	_, p := v.Validate(t.Context(), check(t, acme.DNS01, "dns:a.test"))
	refused(t, p, acme.DNS)
	refused(t, v.Permit(t.Context(), check(t, acme.DNS01, "dns:a.test")), acme.DNS)
	if d := time.Since(began); d > 5*time.Second {
		t.Errorf("left after %s", d)
	}
}

func TestARedirectIntoADeniedRangeIsNotFollowed(t *testing.T) {
	for what, c := range map[string]struct{ to, record, word string }{
		"by a name that leads there":   {"http://inside.test/", "inside.test. 0 IN A 10.1.2.3", "denied"},
		"by NAT64":                     {"http://inside.test/", "inside.test. 0 IN AAAA 64:ff9b::a01:203", "denied"},
		"by an IPv4-mapped record":     {"http://inside.test/", "inside.test. 0 IN AAAA ::ffff:10.1.2.3", "denied"},
		"by 6to4":                      {"http://inside.test/", "inside.test. 0 IN AAAA 2002:a01:203::1", "denied"},
		"to metadata":                  {"http://inside.test/", "inside.test. 0 IN A 169.254.169.254", "link-local"},
		"to metadata by its own name":  {"http://inside.test/", "inside.test. 0 IN AAAA fd00:ec2::254", "metadata"},
		"to an address as it is":       {"http://10.1.2.3/", "", "address"},
		"to an address in other forms": {"http://0x0a010203/", "", "not a DNS name"},
		"to https":                     {"https://inside.test/", "inside.test. 0 IN A 10.1.2.3", "denied"},
	} {
		t.Run(what, func(t *testing.T) {
			d := dnstest.New(t)
			d.Add(t, "a.test. 0 IN A 127.0.0.1")
			if c.record != "" {
				d.Add(t, c.record)
			}
			_, cfg := host(t, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, c.to, http.StatusFound) })
			cfg.Resolver, cfg.Egress.Denied = d.Addr, []netip.Prefix{prefix("10.0.0.0/8")}
			_, p := newValidator(t, cfg).Validate(t.Context(), check(t, acme.HTTP01, "dns:a.test"))
			refused(t, p, acme.Connection, c.word)
		})
	}
}

func TestANameWithOneAddressInsideIsProvedByTheOthers(t *testing.T) {
	d := dnstest.New(t)
	d.Add(t, "a.test. 0 IN AAAA fe80::1", "a.test. 0 IN A 169.254.169.254", "a.test. 0 IN A 127.0.0.1")
	_, cfg := host(t, answerWith(keyAuth))
	cfg.Resolver = d.Addr
	seen, p := newValidator(t, cfg).Validate(t.Context(), check(t, acme.HTTP01, "dns:a.test"))
	if p != nil || seen.Remote.Addr() != netip.MustParseAddr("127.0.0.1") {
		t.Errorf("evidence %v, %v", seen, p)
	}
}

func TestReverseNamesOfAddresses(t *testing.T) {
	for a, want := range map[string]string{
		"192.0.2.1":   "1.2.0.192.in-addr.arpa",
		"2001:db8::1": "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa", // RFC 3596 §2.5
	} {
		if got := validate.Reverse(netip.MustParseAddr(a)); got != want {
			t.Errorf("%s: %s, want %s", a, got, want)
		}
	}
}

func TestAnIPv6AddressIsProvedByHTTP01(t *testing.T) {
	ln, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Skip("this machine has no IPv6 loopback")
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Host != "[::1]" {
			t.Errorf("Host %s", r.Host)
		}
		answerWith(keyAuth)(w, r)
	}), ReadHeaderTimeout: time.Minute}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		srv.Serve(ln) //nolint:errcheck // ends with the test
	}()
	t.Cleanup(func() {
		srv.Close() //nolint:errcheck // same
		<-ended
	})
	v := newValidator(t, validate.Config{HTTPPort: port(t, ln.Addr().String()), Egress: loopback})
	if _, p := v.Validate(t.Context(), check(t, acme.HTTP01, "ip:::1")); p != nil {
		t.Error(p)
	}
}
