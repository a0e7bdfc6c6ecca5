package server_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"codeberg.org/dataverket/segl/cmd/segl/server"
	"codeberg.org/dataverket/segl/internal/postgres"
	"codeberg.org/dataverket/segl/internal/postgres/postgrestest"
	"codeberg.org/dataverket/segl/kms/softkms"
)

// configure returns a configuration on a database without durability, as tests have, on free ports.
func configure(t *testing.T, url string) server.Config {
	t.Helper()
	pass := filepath.Join(t.TempDir(), "passphrase")
	if err := softkms.CreatePassphrase(pass); err != nil {
		t.Fatal(err)
	}
	const free = "127.0.0.1:0"
	return server.Config{
		Site: 1, TrustDomain: "segl.test", PassphraseFile: pass,
		Database: server.Database{URL: url, AllowUnsafe: []string{"fsync", "full_page_writes"}},
		Listen:   server.Listen{Service: free, Operator: free, Public: free, Private: free},
	}
}

// run runs a server until the test ends, or stop is called, and returns where it is.
func run(t *testing.T, cfg server.Config) (at server.Addresses, stop func() error) {
	t.Helper()
	s, err := server.Open(t.Context(), cfg, slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ready, done := make(chan server.Addresses, 1), make(chan error, 1)
	go func() { done <- s.Run(ctx, func(a server.Addresses) error { ready <- a; return nil }) }()
	stop = sync.OnceValue(func() error {
		cancel()
		err := <-done
		s.Close()
		return err
	})
	t.Cleanup(func() { stop() }) //nolint:errcheck // the test has asked already, if it wants to know
	select {
	case at = <-ready:
	case err := <-done:
		done <- err
		t.Fatalf("ended before it was ready: %v", err)
	case <-time.After(time.Minute):
		t.Fatal("not ready within a minute")
	}
	return at, stop
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	client := &http.Client{Timeout: 10 * time.Second}
	res, err := client.Get(url) //nolint:noctx // it has a timeout
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close() //nolint:errcheck // only read
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(body)
}

func TestOpenRefusesADatabaseThatMayLoseWhatItAcknowledged(t *testing.T) {
	cfg := configure(t, postgrestest.New(t))
	cfg.Database.AllowUnsafe = nil
	_, err := server.Open(t.Context(), cfg, slog.New(slog.DiscardHandler))
	if !errors.Is(err, postgres.ErrUnsafe) || !strings.Contains(err.Error(), "fsync") {
		t.Fatalf("%v, want a refusal that names fsync", err)
	}
}

func TestOpenRefusesAnotherPassphrase(t *testing.T) {
	url := postgrestest.New(t)
	_, stop := run(t, configure(t, url))
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := server.Open(t.Context(), configure(t, url), slog.New(slog.DiscardHandler)); !errors.Is(err, softkms.ErrPassphrase) {
		t.Fatalf("%v, want the passphrase refused", err)
	}
}

func TestOpenRefusesAPrivateListenerThatIsNot(t *testing.T) {
	cfg := configure(t, postgrestest.New(t))
	cfg.Listen.Private = ":0"
	if _, err := server.Open(t.Context(), cfg, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "loopback") {
		t.Fatalf("%v, want a refusal", err)
	}
}

func TestASecondStartFindsTheSameAuthorities(t *testing.T) {
	cfg := configure(t, postgrestest.New(t))
	at, stop := run(t, cfg)
	_, first := get(t, at.Public+"/roots.pem")
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	at, _ = run(t, cfg)
	if _, again := get(t, at.Public+"/roots.pem"); again != first || !strings.HasPrefix(first, "-----BEGIN CERTIFICATE-----") {
		t.Fatalf("roots were\n%s\nand are\n%s", first, again)
	}
}

func TestTwoReplicasStartAtOnceOnAnEmptyDatabase(t *testing.T) {
	cfg := configure(t, postgrestest.New(t))
	errs := make(chan error, 2)
	for range 2 {
		go func() {
			s, err := server.Open(t.Context(), cfg, slog.New(slog.DiscardHandler))
			if err == nil {
				s.Close()
			}
			errs <- err
		}()
	}
	for range 2 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

func TestReadinessFailsWithoutPostgresAndSaysSo(t *testing.T) {
	pg := postgrestest.Cluster(t, nil)
	cfg := configure(t, pg.URL())
	cfg.Database.AllowUnsafe = nil
	at, _ := run(t, cfg)
	if code, body := get(t, at.Private+"/readyz"); code != http.StatusOK {
		t.Fatalf("%d %s", code, body)
	}
	if err := pg.Stop(); err != nil {
		t.Fatal(err)
	}
	code, body := get(t, at.Private+"/readyz")
	var said struct {
		Checks []struct {
			Name string
			OK   bool
			Why  string
		}
	}
	if err := json.Unmarshal([]byte(body), &said); err != nil || code != http.StatusServiceUnavailable {
		t.Fatalf("%d %s", code, body)
	}
	for _, c := range said.Checks {
		if c.Name == "database" && !c.OK && c.Why != "" {
			return
		}
	}
	t.Fatalf("readiness does not name the database: %s", body)
}

func TestEveryMeasureIsExplained(t *testing.T) {
	page, err := os.ReadFile("../../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	at, _ := run(t, configure(t, postgrestest.New(t)))
	_, text := get(t, at.Private+"/metrics")
	for line := range strings.Lines(text) {
		name, ok := strings.CutPrefix(line, "# TYPE ")
		if !ok {
			continue
		}
		name, _, _ = strings.Cut(name, " ")
		if strings.HasPrefix(name, "segl_") && !strings.Contains(string(page), "`"+name+"`") {
			t.Errorf("docs/metrics.md does not explain %s", name)
		}
	}
	for line := range strings.Lines(string(page)) {
		name, _, ok := strings.Cut(strings.TrimPrefix(line, "| `"), "`")
		if ok && strings.HasPrefix(name, "segl_") && !strings.Contains(name, " ") && !vectors[name] && !strings.Contains(text, "# TYPE "+name+" ") {
			t.Errorf("docs/metrics.md explains %s, which is not there", name)
		}
	}
}

// vectors have no value until something happened.
var vectors = map[string]bool{"segl_certificates_revoked_total": true, "segl_refusals_total": true, "segl_witness_answers_total": true,
	"segl_acme_validation_seconds": true, "segl_acme_permissions_total": true, "segl_acme_perspective_answers_total": true,
}

func TestTheFirstOperatorNeedsNoServer(t *testing.T) {
	cfg := configure(t, postgrestest.New(t))
	prefix := filepath.Join(t.TempDir(), "op")
	if _, err := server.AddOperator(t.Context(), cfg, "alice", prefix, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "urls.public") {
		t.Fatalf("%v, want urls.public asked for", err)
	}
	cfg.URLs.Public = "http://status.segl.test"
	if _, err := server.AddOperator(t.Context(), cfg, "alice", prefix, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(prefix+".pem", prefix+"-key.pem")
	if err != nil {
		t.Fatal(err)
	}
	at, _ := run(t, cfg)
	ask := func(pair ...tls.Certificate) int {
		client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{
			RootCAs: roots(t, at), Certificates: pair, MinVersion: tls.VersionTLS13,
		}}}
		res, err := client.Get(at.Operator + "/v1/tenants") //nolint:noctx // it has a timeout
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close() //nolint:errcheck // only its status is read
		return res.StatusCode
	}
	if code := ask(pair); code != http.StatusOK {
		t.Errorf("the operator is answered %d", code)
	}
	if code := ask(); code != http.StatusUnauthorized {
		t.Errorf("nobody is answered %d, want 401", code)
	}
}

// roots asks the private listener's neighbour, by its real address: the public URL of this test leads nowhere.
func roots(t *testing.T, at server.Addresses) *x509.CertPool {
	t.Helper()
	conn, err := tls.Dial("tcp", strings.TrimPrefix(at.Operator, "https://"), &tls.Config{
		MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, //nolint:gosec // to learn what is shown, not to trust it
	})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close() //nolint:errcheck // only read
	pool := x509.NewCertPool()
	for _, c := range conn.ConnectionState().PeerCertificates {
		pool.AddCert(c)
	}
	return pool
}
