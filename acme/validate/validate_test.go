package validate_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"codeberg.org/dataverket/segl/acme"
	"codeberg.org/dataverket/segl/acme/validate"
	"codeberg.org/dataverket/segl/acme/validate/dnstest"
	"codeberg.org/dataverket/segl/internal/cert"
)

const (
	token   = "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA"
	keyAuth = token + ".nP1qzpXGymHBrUEepNY9HCsQk7K8KhOypzEt62jcerQ"
)

func name(t testing.TB, s string) cert.Name {
	t.Helper()
	n, err := cert.ParseName(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func check(t testing.TB, m acme.Method, who string) acme.Check {
	t.Helper()
	return acme.Check{Name: name(t, who), Method: m, Token: token, KeyAuthorization: keyAuth}
}

func port(t testing.TB, addr string) uint16 {
	t.Helper()
	a, err := netip.ParseAddrPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	return a.Port()
}

// loopback lets a test's validation reach the test's servers.
var loopback = validate.Egress{Loopback: true}

func newValidator(t testing.TB, cfg validate.Config) *validate.Validator {
	t.Helper()
	v, err := validate.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// refused wants a problem of type want whose detail has every one of words.
func refused(t *testing.T, p *acme.Problem, want acme.ErrorType, words ...string) {
	t.Helper()
	if p == nil {
		t.Errorf("accepted, want %s", want)
		return
	}
	if p.Type != want {
		t.Errorf("refused with %v, want type %s", p, want)
	}
	for _, w := range words {
		if !strings.Contains(p.Detail, w) {
			t.Errorf("detail %q does not say %q", p.Detail, w)
		}
	}
}

// host serves HTTP on loopback and names itself in DNS as a.test, b.test and the like.
func host(t *testing.T, h http.HandlerFunc) (*httptest.Server, validate.Config) {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	d := dnstest.New(t)
	d.Add(t, "a.test. 0 IN A 127.0.0.1", "b.test. 0 IN A 127.0.0.1")
	return srv, validate.Config{Resolver: d.Addr, HTTPPort: port(t, srv.Listener.Addr().String()), Egress: loopback}
}

func answerWith(body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, body) }
}

func TestHTTP01AcceptsTheKeyAuthorization(t *testing.T) {
	var got *http.Request
	srv, cfg := host(t, func(w http.ResponseWriter, r *http.Request) {
		got = r
		fmt.Fprint(w, keyAuth+" \r\n") // RFC 8555 §8.3: white space at the end is ignored
	})
	v := newValidator(t, cfg)
	for _, who := range []string{"dns:a.test", "dns:localhost", "dns:x.localhost", "ip:127.0.0.1"} {
		seen, p := v.Validate(t.Context(), check(t, acme.HTTP01, who))
		if p != nil {
			t.Errorf("%s: %v", who, p)
			continue
		}
		if got.Host != strings.SplitN(who, ":", 2)[1] || got.URL.Path != "/.well-known/acme-challenge/"+token || got.Method != "GET" {
			t.Errorf("%s: asked %s %s of %s", who, got.Method, got.URL, got.Host)
		}
		if got.Header.Get("Cookie") != "" || seen.Remote.String() != srv.Listener.Addr().String() {
			t.Errorf("%s: evidence %v, header %v", who, seen, got.Header)
		}
	}
}

func TestHTTP01RefusesOtherAnswers(t *testing.T) {
	for what, c := range map[string]struct {
		h    http.HandlerFunc
		want acme.ErrorType
	}{
		"nothing there":     {http.NotFound, acme.Unauthorized},
		"empty":             {answerWith(""), acme.IncorrectResponse},
		"another token":     {answerWith("x" + keyAuth[1:]), acme.IncorrectResponse},
		"another account":   {answerWith(keyAuth[:len(keyAuth)-1] + "x"), acme.IncorrectResponse},
		"the token alone":   {answerWith(token), acme.IncorrectResponse},
		"white space first": {answerWith(" " + keyAuth), acme.IncorrectResponse},
		"more after it":     {answerWith(keyAuth + "\nmore"), acme.IncorrectResponse},
		"in a page":         {answerWith("<p>" + keyAuth + "</p>"), acme.IncorrectResponse},
		"very long":         {answerWith(keyAuth + strings.Repeat(" ", 5000) + "x"), acme.IncorrectResponse},
		"server error": {func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusInternalServerError)
			fmt.Fprint(w, keyAuth)
		}, acme.Unauthorized},
		"partial content": {func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusPartialContent)
			fmt.Fprint(w, keyAuth)
		}, acme.Unauthorized},
		"redirect to nowhere": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusFound) }, acme.Connection},
	} {
		t.Run(what, func(t *testing.T) {
			_, cfg := host(t, c.h)
			if what == "very long" { // white space beyond the bound is not read, what hides behind it neither
				c.want = acme.IncorrectResponse
			}
			_, p := newValidator(t, cfg).Validate(t.Context(), check(t, acme.HTTP01, "dns:a.test"))
			if what == "very long" && p == nil {
				return
			}
			refused(t, p, c.want)
		})
	}
}

func TestHTTP01ShowsLittleOfWhatItGot(t *testing.T) {
	_, cfg := host(t, answerWith("\x1b[31m"+strings.Repeat("s", 500)))
	_, p := newValidator(t, cfg).Validate(t.Context(), check(t, acme.HTTP01, "dns:a.test"))
	refused(t, p, acme.IncorrectResponse)
	if strings.Contains(p.Detail, strings.Repeat("s", 101)) || strings.ContainsRune(p.Detail, 0x1b) {
		t.Errorf("detail %q shows too much", p.Detail)
	}
}

func TestHTTP01FollowsRedirects(t *testing.T) {
	secure := httptest.NewTLSServer(answerWith(keyAuth))
	t.Cleanup(secure.Close)
	_, cfg := host(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Host == "a.test" {
			http.Redirect(w, r, "http://B.test/elsewhere", http.StatusMovedPermanently)
			return
		}
		http.Redirect(w, r, "https://b.test/there?x=1", http.StatusTemporaryRedirect)
	})
	cfg.TLSPort = port(t, secure.Listener.Addr().String())
	seen, p := newValidator(t, cfg).Validate(t.Context(), check(t, acme.HTTP01, "dns:a.test"))
	if p != nil || len(seen.Via) != 2 || seen.Via[1] != "https://b.test/there?x=1" {
		t.Fatalf("evidence %v, %v", seen, p)
	}
}

func TestHTTP01RefusesRedirects(t *testing.T) {
	for to, words := range map[string]string{
		"http://b.test:22/":             "port",
		"http://b.test:8443/":           "port",
		"http://b.test:99999/":          "port",
		"ftp://b.test/":                 "scheme",
		"file:///etc/passwd":            "scheme",
		"gopher://b.test/":              "scheme",
		"http://user:pass@b.test/":      "credentials",
		"http://127.0.0.1/":             "address",
		"http://[::1]/":                 "address",
		"http://[fe80::1%25eth0]/":      "zone",
		"http://169.254.169.254/meta":   "address",
		"http://2130706433/":            "not a DNS name",
		"http://bad_host/":              "not a DNS name",
		"http://*.test/":                "not a DNS name",
		"http:///x":                     "not a DNS name",
		"http:opaque":                   "no host",
		"/again":                        "redirects",
		"http://meta.test/":             "link-local",
		"http://gone.test/":             "NXDOMAIN",
		"/" + strings.Repeat("x", 3000): "2048",
	} {
		t.Run(to[:min(len(to), 40)], func(t *testing.T) {
			d := dnstest.New(t)
			d.Add(t, "a.test. 0 IN A 127.0.0.1", "meta.test. 0 IN A 169.254.169.254")
			_, cfg := host(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Location", to)
				w.WriteHeader(http.StatusFound)
			})
			cfg.Resolver = d.Addr
			_, p := newValidator(t, cfg).Validate(t.Context(), check(t, acme.HTTP01, "dns:a.test"))
			want := acme.Connection
			if to == "http://gone.test/" {
				want = acme.DNS
			}
			refused(t, p, want, words)
		})
	}
}

func TestHTTP01ChecksTheAddressOfEveryHop(t *testing.T) {
	// The name leads to us once, and to the metadata service when asked again.
	var hits int
	d := dnstest.New(t)
	_, cfg := host(t, func(w http.ResponseWriter, r *http.Request) {
		hits++
		d.Clear("a.test")
		d.Add(t, "a.test. 0 IN A 169.254.169.254")
		http.Redirect(w, r, "http://a.test/again", http.StatusFound)
	})
	d.Add(t, "a.test. 0 IN A 127.0.0.1")
	cfg.Resolver = d.Addr
	_, p := newValidator(t, cfg).Validate(t.Context(), check(t, acme.HTTP01, "dns:a.test"))
	refused(t, p, acme.Connection, "169.254.169.254", "link-local")
	if hits != 1 {
		t.Errorf("%d requests", hits)
	}
}

func TestHTTP01TakesNoProxyFromTheEnvironment(t *testing.T) {
	proxy := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the proxy was asked") }))
	t.Cleanup(proxy.Close)
	for _, v := range []string{"HTTP_PROXY", "http_proxy", "ALL_PROXY"} {
		t.Setenv(v, proxy.URL)
	}
	_, cfg := host(t, answerWith(keyAuth))
	if _, p := newValidator(t, cfg).Validate(t.Context(), check(t, acme.HTTP01, "dns:a.test")); p != nil {
		t.Fatal(p)
	}
}

func TestHTTP01SurvivesRudeServers(t *testing.T) {
	for what, say := range map[string]string{
		"closes":             "",
		"speaks another":     "220 mail.test ESMTP\r\n",
		"never ends headers": "HTTP/1.1 200 OK\r\n" + strings.Repeat("X-Filler: "+strings.Repeat("x", 1000)+"\r\n", 200),
		"only interim":       strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", 50),
		"cut short":          "HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\nabc",
	} {
		t.Run(what, func(t *testing.T) {
			l := serve(t, func(c net.Conn) {
				buf := make([]byte, 4096)
				c.Read(buf)        //nolint:errcheck // whatever came
				fmt.Fprint(c, say) //nolint:errcheck // the other side may have gone
			})
			v := newValidator(t, validate.Config{HTTPPort: port(t, l), Egress: loopback})
			_, p := v.Validate(t.Context(), check(t, acme.HTTP01, "ip:127.0.0.1"))
			refused(t, p, acme.Connection)
		})
	}
}

// serve runs h for each connection to a listener on loopback, and waits for all of them.
func serve(t *testing.T, h func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			h(c)
			c.Close() //nolint:errcheck // the test is about the other side
		}
	}()
	t.Cleanup(func() {
		l.Close() //nolint:errcheck // ends the loop
		<-done
	})
	return l.Addr().String()
}

func TestValidationEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	l := serve(t, func(c net.Conn) {
		cancel()
		c.SetReadDeadline(time.Now().Add(time.Minute)) //nolint:errcheck // fails the test by being late
		for buf := make([]byte, 512); ; {
			if _, err := c.Read(buf); err != nil {
				return
			}
		}
	})
	for _, m := range []acme.Method{acme.HTTP01, acme.TLSALPN01} {
		v := newValidator(t, validate.Config{HTTPPort: port(t, l), TLSPort: port(t, l), Egress: loopback})
		_, p := v.Validate(ctx, check(t, m, "ip:127.0.0.1"))
		if p == nil {
			t.Fatalf("%s: accepted silence", m)
		}
	}
}

func TestEgressRefuses(t *testing.T) {
	own := netip.MustParseAddrPort("127.0.0.1:80")
	everywhere := netip.MustParseAddrPort("[::]:80")
	ten, all := netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("0.0.0.0/0")
	for what, c := range map[string]struct {
		e   validate.Egress
		to  string
		why string
	}{
		"loopback by default":     {validate.Egress{}, "127.0.0.1", "loopback"},
		"all of loopback":         {validate.Egress{}, "127.8.9.1", "loopback"},
		"IPv6 loopback":           {validate.Egress{}, "::1", "loopback"},
		"link-local":              {validate.Egress{}, "169.254.1.1", "link-local"},
		"metadata":                {validate.Egress{}, "169.254.169.254", "metadata"},
		"metadata though allowed": {validate.Egress{Allowed: []netip.Prefix{all}}, "169.254.169.254", "metadata"},
		"IPv6 metadata":           {validate.Egress{}, "fd00:ec2::254", "metadata"},
		"IPv6 link-local":         {validate.Egress{}, "fe80::1", "link-local"},
		"multicast":               {validate.Egress{}, "224.0.0.1", "multicast"},
		"IPv6 multicast":          {validate.Egress{}, "ff02::1", "multicast"},
		"broadcast":               {validate.Egress{}, "255.255.255.255", "reserved"},
		"unspecified":             {validate.Egress{}, "0.0.0.0", "unspecified"},
		"IPv6 unspecified":        {validate.Egress{}, "::", "unspecified"},
		"this network":            {validate.Egress{}, "0.1.2.3", "unspecified"},
		"metadata by NAT64":       {validate.Egress{}, "64:ff9b::a9fe:a9fe", "metadata"},
		"loopback by 6to4":        {validate.Egress{}, "2002:7f00:1::", "loopback"},
		"loopback, compatible":    {validate.Egress{}, "::7f00:1", "loopback"},
		"denied":                  {validate.Egress{Denied: []netip.Prefix{ten}}, "10.1.2.3", "denied range 10.0.0.0/8"},
		"denied though allowed":   {validate.Egress{Allowed: []netip.Prefix{all}, Denied: []netip.Prefix{ten}}, "10.1.2.3", "denied"},
		"not allowed":             {validate.Egress{Allowed: []netip.Prefix{ten}}, "192.0.2.1", "allowed ranges"},
		"nothing allowed":         {validate.Egress{Allowed: []netip.Prefix{}}, "192.0.2.1", "allowed ranges"},
		"our listener":            {validate.Egress{Loopback: true, Own: []netip.AddrPort{own}}, "127.0.0.1", "listener"},
		"our listener everywhere": {validate.Egress{Loopback: true, Own: []netip.AddrPort{everywhere}}, "127.0.0.1", "listener"},
	} {
		t.Run(what, func(t *testing.T) {
			v := newValidator(t, validate.Config{Egress: c.e})
			_, p := v.Validate(t.Context(), check(t, acme.HTTP01, "ip:"+c.to))
			refused(t, p, acme.Connection, c.why)
		})
	}
}

func TestOnlyTheMethodsOfANameCount(t *testing.T) {
	v := newValidator(t, validate.Config{Egress: loopback})
	for _, c := range []acme.Check{
		check(t, acme.HTTP01, "dns:*.a.test"), check(t, acme.TLSALPN01, "dns:*.a.test"), check(t, acme.DNS01, "ip:127.0.0.1"),
		check(t, "device-attest-01", "dns:a.test"), check(t, acme.HTTP01, "uri:spiffe://a.test/x"),
	} {
		_, p := v.Validate(t.Context(), c)
		refused(t, p, acme.Malformed)
	}
}

func TestNewRefusesAResolverThatIsNoAddress(t *testing.T) {
	for _, s := range []string{"localhost:53", "192.0.2.1", ":53", "192.0.2.1:x"} {
		if _, err := validate.New(validate.Config{Resolver: s}); err == nil || !strings.Contains(err.Error(), "192.0.2.53:53") {
			t.Errorf("%q: %v", s, err)
		}
	}
}

func TestProblemIsAnError(t *testing.T) {
	_, p := newValidator(t, validate.Config{}).Validate(t.Context(), check(t, acme.HTTP01, "ip:127.0.0.1"))
	var as *acme.Problem
	if err := fmt.Errorf("validating: %w", p); !errors.As(err, &as) || as != p {
		t.Fatal("lost its type")
	}
}
