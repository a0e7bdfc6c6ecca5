package web_test

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"codeberg.org/dataverket/segl/internal/web"
)

// BenchmarkPost is a JSON POST of the size of a certificate request over one kept-alive TLS connection, client included;
// BenchmarkBare is what net/http alone takes for it. The difference is this package.
func BenchmarkPost(b *testing.B) {
	r := populated(b, func(c *web.Config) { c.Log = discardJSON() })
	post(b, r.as(b, "holder"), r.base+"/v1/tenants/demo/projects/shop/notes", http.StatusCreated)
}

// discardJSON formats lines as the program does, and drops them.
func discardJSON() *slog.Logger {
	return slog.New(slog.NewJSONHandler(io.Discard, nil)) //nolint:sloglint // the formatting is to be paid for
}

// BenchmarkServe is what this package does in it, without net/http and TLS.
func BenchmarkServe(b *testing.B) {
	s, err := web.NewServer(web.Config{
		Name: "bench", Log: discardJSON(), Metrics: web.NewMetrics(prometheus.NewRegistry()), Now: time.Now,
	}, web.Door{Routes: []web.Route{
		{Method: "POST", Path: "/v1/tenants/{tenant}/projects/{project}/notes", Access: web.Anyone, Status: 201, Handler: web.JSON(makeNote)},
	}})
	must(b, err)
	b.ReportAllocs()
	body := `{"text":"` + strings.Repeat("x", 600) + `"}`
	for b.Loop() {
		req, err := http.NewRequestWithContext(b.Context(), http.MethodPost, "/v1/tenants/demo/projects/shop/notes", strings.NewReader(body))
		must(b, err)
		req.Header.Set("Content-Type", "application/json")
		s.ServeHTTP(&sink{h: http.Header{}}, req)
	}
}

// BenchmarkBare is what net/http and TLS take without this package.
func BenchmarkBare(b *testing.B) {
	r := populated(b, nil)
	host := r.ca.issue(b, func(c *x509.Certificate) {
		c.DNSNames, c.ExtKeyUsage = []string{"localhost"}, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	})
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = w.Write(make([]byte, 700))
	}))
	s.TLS = &tls.Config{Certificates: []tls.Certificate{host}, Time: clock}
	s.StartTLS()
	defer s.Close()
	post(b, r.as(b, "holder"), strings.Replace(s.URL, "127.0.0.1", "localhost", 1), http.StatusOK)
}

type sink struct{ h http.Header }

func (s *sink) Header() http.Header         { return s.h }
func (s *sink) Write(b []byte) (int, error) { return len(b), nil }
func (s *sink) WriteHeader(int)             {}

func post(b *testing.B, c *http.Client, url string, want int) {
	b.Helper()
	b.ReportAllocs()
	body := `{"text":"` + strings.Repeat("x", 600) + `"}`
	for b.Loop() {
		req, err := http.NewRequestWithContext(b.Context(), http.MethodPost, url, strings.NewReader(body))
		must(b, err)
		req.Header.Set("Content-Type", "application/json")
		resp, err := c.Do(req)
		must(b, err)
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode != want {
			b.Fatal(resp.Status)
		}
	}
}
