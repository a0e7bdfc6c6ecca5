package e2e_test

import (
	"crypto/tls"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"codeberg.org/dataverket/segl/acme/validate/dnstest"
	"codeberg.org/dataverket/segl/internal/e2e"
)

// An acmeSite is a segl with the world that its validation asks: a DNS server, and one holder of the validation ports that
// hands every question on to whoever answers for its name. So clients run side by side.
type acmeSite struct {
	*e2e.Segl
	*acmeWorld
	directory string // where clients are sent
}

// An acmeWorld is what validation finds.
type acmeWorld struct {
	dns *dnstest.Server

	// root is a directory whose files the web server of 127.0.0.1 shows.
	root string

	mu  sync.Mutex
	web map[string]http.Handler // by host
	tls map[string]string       // server names to addresses

	matrix matrix

	nodeOnce sync.Once
	nodeDir  string
}

func newACMESite(t *testing.T) *acmeSite {
	s, flags := newACMEWorld(t)
	s.Segl = e2e.Start(t, flags...)
	s.root, s.directory = s.webroot(t, "127.0.0.1"), s.Env["SEGL_ACME_DIRECTORY"]
	return s
}

// newACMEWorld is a site before its segl, which is to be started with the flags.
func newACMEWorld(t *testing.T) (*acmeSite, []string) {
	s := &acmeSite{acmeWorld: &acmeWorld{dns: dnstest.New(t), web: map[string]http.Handler{}, tls: map[string]string{}}}
	web, alpn := listenLoopback(t), listenLoopback(t)
	srv := &http.Server{Handler: s, ReadHeaderTimeout: 10 * time.Second}
	var all sync.WaitGroup
	all.Go(func() { srv.Serve(web) })
	all.Go(func() { s.acceptTLS(alpn, &all) })
	t.Cleanup(func() {
		srv.Close()
		alpn.Close()
		all.Wait()
	})
	return s, []string{"--acme-http-port", portOf(web), "--acme-tls-port", portOf(alpn), "--acme-resolver", s.dns.Addr}
}

// at is the same site for clients that are sent to another directory.
func (s *acmeSite) at(directory string) *acmeSite { return &acmeSite{s.Segl, s.acmeWorld, directory} }

func listenLoopback(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func portOf(l net.Listener) string { return strconv.Itoa(l.Addr().(*net.TCPAddr).Port) }

// clientPort finds a port for a client that has to be told one. Systems hand out higher ones of their own accord, so nothing
// takes it until the client does.
func clientPort(t *testing.T) string {
	t.Helper()
	for range 100 {
		port := strconv.Itoa(20000 + rand.IntN(12000))
		if l, err := net.Listen("tcp", "127.0.0.1:"+port); err == nil {
			l.Close()
			return port
		}
	}
	t.Fatal("no port from 20000 to 31999 is free")
	return ""
}

// holds makes names lead here, and h their web server.
func (s *acmeSite) holds(t *testing.T, h http.Handler, names ...string) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range names {
		s.web[n] = h
		if net.ParseIP(n) == nil {
			s.dns.Add(t, n+". 0 IN A 127.0.0.1")
		}
	}
}

// webroot is a directory whose files the web server of names shows, with the one below it where challenges go.
func (s *acmeSite) webroot(t *testing.T, names ...string) string {
	t.Helper()
	dir := s.Temp(t)
	if err := os.MkdirAll(filepath.Join(dir, wellKnown), 0o755); err != nil {
		t.Fatal(err)
	}
	s.holds(t, http.FileServer(http.Dir(dir)), names...)
	return dir
}

const wellKnown = ".well-known/acme-challenge"

// proxyTo is a web server that asks another on a port of loopback.
func proxyTo(port string) http.Handler {
	to := &url.URL{Scheme: "http", Host: "127.0.0.1:" + port}
	return &httputil.ReverseProxy{
		Rewrite:      func(r *httputil.ProxyRequest) { r.SetURL(to); r.Out.Host = r.In.Host },
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
	}
}

func (s *acmeSite) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	h := s.web[r.Host]
	s.mu.Unlock()
	if h == nil {
		http.NotFound(w, r)
		return
	}
	h.ServeHTTP(w, r)
}

// holdsTLS makes names lead to a TLS server on a port of loopback.
func (s *acmeSite) holdsTLS(t *testing.T, port string, names ...string) {
	t.Helper()
	s.holds(t, http.NotFoundHandler(), names...)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range names {
		s.tls[n] = "127.0.0.1:" + port
	}
}

func (s *acmeSite) acceptTLS(l net.Listener, all *sync.WaitGroup) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		all.Go(func() {
			defer c.Close()
			c.SetDeadline(time.Now().Add(30 * time.Second))
			s.pass(c)
		})
	}
}

// pass hands a TLS connection on, as it is, to whoever has its server name.
func (s *acmeSite) pass(c net.Conn) {
	var seen strings.Builder
	var name string
	stop := errors.New("seen enough")
	tls.Server(readOnly{c, io.TeeReader(c, &seen)}, &tls.Config{GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		name = h.ServerName
		return nil, stop
	}}).Handshake()
	s.mu.Lock()
	to := s.tls[name]
	s.mu.Unlock()
	back, err := net.DialTimeout("tcp", to, 5*time.Second)
	if err != nil {
		return
	}
	defer back.Close()
	io.WriteString(back, seen.String())
	var other sync.WaitGroup
	other.Go(func() { io.Copy(back, c); back.(*net.TCPConn).CloseWrite() })
	io.Copy(c, back)
	c.Close()
	other.Wait()
}

// readOnly is a connection that says nothing.
type readOnly struct {
	net.Conn
	r io.Reader
}

func (c readOnly) Read(p []byte) (int, error)  { return c.r.Read(p) }
func (c readOnly) Write(p []byte) (int, error) { return len(p), nil }
