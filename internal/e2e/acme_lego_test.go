package e2e_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"codeberg.org/dataverket/segl/internal/e2e"
)

// A lego has a directory and a port of its own.
type lego struct {
	acmeClient
	dir, port string
}

// newLego makes one with further environment.
func newLego(t *testing.T, s *acmeSite, more ...string) lego {
	t.Helper()
	program := e2e.Need(t, "lego", "lego")
	l := lego{dir: s.Temp(t), port: clientPort(t)}
	env := append([]string{"env", "LEGO_CA_CERTIFICATES=" + s.Env["SEGL_ROOT"]}, more...)
	l.acmeClient = acmeClient{s, append(env, program, "--path", l.dir, "--server", s.directory, "--accept-tos", "--email", "ops@demo.test")}
	return l
}

func (l lego) file(name string) string { return filepath.Join(l.dir, "certificates", name+".crt") }

func legoLives(t *testing.T, s *acmeSite) {
	l := newLego(t, s)
	names := []string{"lego-a.demo.test", "lego-b.demo.test"}
	s.holdsTLS(t, l.port, names...)
	by := []string{"--tls", "--tls.port", "127.0.0.1:" + l.port, "--key-type", "ec384", "--domains", names[0], "--domains", names[1]}
	l.does(t, "[lego-b.demo.test] acme: use tls-alpn-01 solver", append(by, "run")...)
	first := s.read(t, l.file(names[0]), names...)
	l.does(t, "Server responded with a certificate.", append(by, "renew", "--days", "90", "--no-random-sleep")...)
	second := s.read(t, l.file(names[0]), names...)
	second.replaces(t, first)
	l.does(t, "Certificate was revoked.", "--domains", names[0], "revoke", "--reason", "4")
	s.ended(t, second, 4)
	s.matrix.note("lego", issues, renews, byALPN, revokes)
}

// The httpreq provider of lego asks a web service to publish records. Ours is part of the test.
func legoWildcard(t *testing.T, s *acmeSite) {
	zone := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var in struct{ FQDN, Value string }
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		switch r.URL.Path {
		case "/present":
			s.dns.SetTXT(in.FQDN, in.Value)
		case "/cleanup":
			s.dns.Clear(in.FQDN)
		}
	}))
	defer zone.Close()
	l := newLego(t, s, "HTTPREQ_ENDPOINT="+zone.URL, "HTTPREQ_POLLING_INTERVAL=1")
	l.does(t, "[*.demo.test] acme: use dns-01 solver", "--dns", "httpreq", "--dns.resolvers", s.dns.Addr, "--dns.disable-cp",
		"--key-type", "rsa2048", "--domains", "*.demo.test", "--domains", "lego-dns.demo.test", "run")
	got := s.read(t, l.file("_.demo.test"), "*.demo.test", "lego-dns.demo.test")
	l.does(t, "Certificate was revoked.", "--domains", "*.demo.test", "revoke")
	s.ended(t, got, 0)
	s.matrix.note("lego", byDNS, wildcard)
}

func legoIsTold(t *testing.T, s *acmeSite) {
	l := newLego(t, s)
	l.fails(t, []string{"acme:error:rejectedIdentifier", notYours}, "--http", "--domains", "evil.test", "run")

	// 4.9 orders an address as if it were a DNS name; newer ones do as RFC 8738 §3 says.
	order := append(append([]string(nil), l.call...), "--http", "--http.webroot", s.root, "--domains", "127.0.0.1", "run")
	out, err := s.Try(t, order[0], order[1:]...)
	if err == nil {
		s.read(t, l.file("127.0.0.1"), "127.0.0.1")
		s.matrix.note("lego", byAddress)
	} else if want := "an IP address is not a DNS name: ask for it as type ip (RFC 8738 §3)"; !strings.Contains(out, want) {
		t.Errorf("want a certificate for an address, or %q in\n%s", want, out)
	}

	const name = "lego-told.demo.test"
	s.holdsTLS(t, clientPort(t), name) // somebody else's
	l.fails(t, []string{"urn:ietf:params:acme:error:tls", name}, "--tls", "--tls.port", "127.0.0.1:"+l.port, "--domains", name, "run")
}
