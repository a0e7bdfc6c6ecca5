package selfcert_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"codeberg.org/dataverket/segl/internal/postgres"
	"codeberg.org/dataverket/segl/internal/postgres/postgrestest"
	"codeberg.org/dataverket/segl/internal/selfcert"
	"codeberg.org/dataverket/segl/kms/kmstest"
)

const life = time.Hour

// A clock is the process's: it moves when told to.
type clock struct{ ahead atomic.Int64 }

func (c *clock) now() time.Time        { return time.Now().Add(time.Duration(c.ahead.Load())) }
func (c *clock) move(by time.Duration) { c.ahead.Add(int64(by)) }

// An authority issues certificates that live an hour, by its clock.
type authority struct {
	clock  *clock
	key    *ecdsa.PrivateKey
	issued atomic.Int64
	err    atomic.Pointer[error]
	forge  func(*x509.Certificate, *x509.CertificateRequest) // spoils what is issued
}

func newAuthority(t *testing.T, c *clock) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{clock: c, key: key}
}

func (a *authority) fail(err error) { a.err.Store(&err) }

func (a *authority) IssueServer(_ context.Context, csr *x509.CertificateRequest) ([]byte, error) {
	if err := a.err.Load(); err != nil && *err != nil {
		return nil, *err
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(a.issued.Add(1)), DNSNames: csr.DNSNames, IPAddresses: csr.IPAddresses,
		NotBefore: a.clock.now().Add(-time.Second), NotAfter: a.clock.now().Add(life), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if a.forge != nil {
		a.forge(tmpl, csr)
	}
	root := a.root()
	der, err := x509.CreateCertificate(rand.Reader, tmpl, root, csr.PublicKey, a.key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}

func (a *authority) root() *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test root"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<32, 0),
	}
}

func (a *authority) pool(t *testing.T) *x509.CertPool {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, a.root(), a.root(), a.key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(c)
	return pool
}

// A site is a database, its keyring and its authority, which replicas share.
type site struct {
	db    *postgres.DB
	ring  *kmstest.Keyring
	ca    *authority
	clock *clock
}

func newSite(t *testing.T) *site {
	t.Helper()
	c := new(clock)
	return &site{postgrestest.Open(t), kmstest.NewKeyring(), newAuthority(t, c), c}
}

func (s *site) replica(t *testing.T) *selfcert.Source {
	t.Helper()
	src, err := selfcert.New(selfcert.Config{
		DB: s.db, Authority: s.ca, Sealer: s.ring, Now: s.clock.now, RenewCheck: 5 * time.Millisecond, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(src.Close)
	return src
}

func manage(t *testing.T, src *selfcert.Source, names ...string) {
	t.Helper()
	if err := src.Manage(t.Context(), names); err != nil {
		t.Fatal(err)
	}
}

func (s *site) issued(t *testing.T, want int64) {
	t.Helper()
	if got := s.ca.issued.Load(); got != want {
		t.Errorf("%d certificates were issued, want %d", got, want)
	}
}

// serve echoes lines over TLS.
func serve(t *testing.T, src *selfcert.Source) (addr string) {
	t.Helper()
	l, err := tls.Listen("tcp", "127.0.0.1:0", src.TLSConfig())
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(func() { l.Close(); wg.Wait() })
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				io.Copy(c, c) //nolint:errcheck // the client tells
			})
		}
	})
	return l.Addr().String()
}

// dial connects and returns what it was shown. An empty name sends no SNI, as for any IP address.
func (s *site) dial(t *testing.T, addr, name string) (*tls.Conn, *x509.Certificate) {
	t.Helper()
	c, err := s.tryDial(t, addr, name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c, c.ConnectionState().PeerCertificates[0]
}

func (s *site) tryDial(t *testing.T, addr, name string) (*tls.Conn, error) {
	d := tls.Dialer{Config: &tls.Config{RootCAs: s.ca.pool(t), ServerName: name, Time: s.clock.now, NextProtos: []string{"h2"}}}
	c, err := d.DialContext(t.Context(), "tcp", addr)
	if err != nil {
		return nil, err
	}
	return c.(*tls.Conn), nil
}

func echo(t *testing.T, c *tls.Conn) {
	t.Helper()
	fmt.Fprintln(c, "hello")
	if got, err := bufio.NewReader(c).ReadString('\n'); err != nil || got != "hello\n" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestCertificateIsSwappedUnderOpenConnections(t *testing.T) {
	s := newSite(t)
	src := s.replica(t)
	manage(t, src, "localhost", "127.0.0.1")
	addr := serve(t, src)
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { src.Run(ctx) })
	open, first := s.dial(t, addr, "localhost")
	echo(t, open)
	for round := range 3 {
		s.clock.move(life * 2 / 3)
		second := first
		for second.SerialNumber.Cmp(first.SerialNumber) == 0 {
			var c *tls.Conn
			c, second = s.dial(t, addr, "localhost")
			echo(t, c)
		}
		if second.PublicKey.(*ecdsa.PublicKey).Equal(first.PublicKey) {
			t.Errorf("round %d: the key was used again", round)
		}
		first = second
		echo(t, open)
	}
	stop()
	wg.Wait()
}

func TestEveryClientGetsACertificate(t *testing.T) {
	s := newSite(t)
	src := s.replica(t)
	addr := serve(t, src)
	if c, err := s.tryDial(t, addr, "localhost"); err == nil {
		c.Close()
		t.Error("served before there was a certificate")
	}
	manage(t, src, "ca.example.test", "*.demo.test", "127.0.0.1", "::1")
	for sent, want := range map[string]string{
		"ca.example.test": "ca.example.test", "CA.example.test": "ca.example.test", "a.demo.test": "*.demo.test", "127.0.0.1": "127.0.0.1",
	} {
		_, c := s.dial(t, addr, sent)
		if got := append(c.DNSNames, fmt.Sprint(c.IPAddresses))[0]; strings.Trim(got, "[]") != want {
			t.Errorf("%s: got the certificate of %s", sent, got)
		}
	}
	// A name that is not ours, and an address without a certificate, get the default one and may judge for themselves.
	for _, sent := range []string{"stranger.test", "192.0.2.1"} {
		_, err := s.tryDial(t, addr, sent)
		var wrong x509.HostnameError
		if !errors.As(err, &wrong) {
			t.Errorf("%s: %v", sent, err)
		} else if sent == "stranger.test" && (len(wrong.Certificate.DNSNames) != 1 || wrong.Certificate.DNSNames[0] != "ca.example.test") {
			t.Errorf("%s: got %v", sent, wrong.Certificate.DNSNames)
		}
	}
}

func TestNoServerNameGetsTheDefaultCertificate(t *testing.T) {
	s := newSite(t)
	src := s.replica(t)
	manage(t, src, "ca.example.test", "other.test")
	addr := serve(t, src)
	_, err := s.tryDial(t, addr, "127.0.0.1") // sends no SNI
	var wrong x509.HostnameError
	if !errors.As(err, &wrong) || len(wrong.Certificate.DNSNames) != 1 || wrong.Certificate.DNSNames[0] != "ca.example.test" {
		t.Errorf("got %v", err)
	}
}

func TestRestartIssuesNothing(t *testing.T) {
	s := newSite(t)
	manage(t, s.replica(t), "localhost", "::1")
	manage(t, s.replica(t), "localhost", "::1")
	s.issued(t, 2)
}

func TestReplicasShareOneCertificate(t *testing.T) {
	s := newSite(t)
	replicas := []*selfcert.Source{s.replica(t), s.replica(t), s.replica(t)}
	all := func(do func(*selfcert.Source)) {
		var wg sync.WaitGroup
		for _, r := range replicas {
			wg.Go(func() { do(r) })
		}
		wg.Wait()
	}
	all(func(r *selfcert.Source) {
		if err := r.Manage(t.Context(), []string{"localhost"}); err != nil {
			t.Error(err)
		}
	})
	s.issued(t, 1)
	for round := range int64(3) {
		s.clock.move(life * 2 / 3)
		all(func(r *selfcert.Source) { r.Check(t.Context()) })
		s.issued(t, 2+round)
		for i, r := range replicas {
			if _, c := s.dial(t, serve(t, r), "localhost"); c.SerialNumber.Int64() != 2+round {
				t.Errorf("round %d: replica %d serves certificate %d", round, i, c.SerialNumber)
			}
		}
	}
}

func TestRenewalWaitsForTheLastThird(t *testing.T) {
	s := newSite(t)
	src := s.replica(t)
	manage(t, src, "localhost")
	s.clock.move(life*2/3 - time.Minute)
	src.Check(t.Context())
	s.issued(t, 1)
	s.clock.move(2 * time.Minute)
	src.Check(t.Context())
	src.Check(t.Context())
	s.issued(t, 2)
}

// certmagic judges by the machine's clock. Ours decides, whichever way it is off, and also once it is set right again.
func TestShiftedClockDecides(t *testing.T) {
	for _, offset := range []time.Duration{365 * 24 * time.Hour, -365 * 24 * time.Hour} {
		t.Run(offset.String(), func(t *testing.T) {
			s := newSite(t)
			s.clock.move(offset)
			src := s.replica(t)
			manage(t, src, "localhost")
			src.Check(t.Context())
			manage(t, s.replica(t), "localhost")
			s.issued(t, 1)
			s.dial(t, serve(t, src), "localhost")

			s.clock.move(life * 2 / 3)
			src.Check(t.Context())
			s.issued(t, 2)

			s.clock.move(-offset)
			right := s.replica(t)
			manage(t, right, "localhost")
			s.issued(t, 3)
			s.dial(t, serve(t, right), "localhost")
		})
	}
}

func TestOldCertificateIsServedWhileRenewingFails(t *testing.T) {
	s := newSite(t)
	src := s.replica(t)
	manage(t, src, "localhost")
	addr := serve(t, src)
	s.ca.fail(errors.New("the key is away"))
	s.clock.move(life * 2 / 3)
	for range 3 {
		src.Check(t.Context())
		s.dial(t, addr, "localhost")
	}
	if left := src.Expires().Sub(s.clock.now()); left > life/3 {
		t.Errorf("expires in %s", left)
	}
	s.ca.fail(nil)
	src.Check(t.Context())
	s.issued(t, 2)
	if left := src.Expires().Sub(s.clock.now()); left < life-time.Minute {
		t.Errorf("expires in %s", left)
	}
}

func TestManageSaysWhyThereIsNoCertificate(t *testing.T) {
	s := newSite(t)
	src := s.replica(t)
	away := errors.New("the key is away")
	s.ca.fail(away)
	if err := src.Manage(t.Context(), []string{"localhost"}); !errors.Is(err, away) || !strings.Contains(err.Error(), "localhost") {
		t.Errorf("got %v", err)
	}
	for _, bad := range []string{"", "Localhost", "local_host", "a b", "https://a.test", "a.test.", "1.2.3", "::ffff:1.2.3.4"} {
		if err := src.Manage(t.Context(), []string{bad}); err == nil {
			t.Errorf("took %q for a name", bad)
		}
	}
}

// Each certificate differs from a good one in one thing, and must not be stored.
func TestWrongCertificateIsRefused(t *testing.T) {
	s := newSite(t)
	for what, forge := range map[string]func(*x509.Certificate, *x509.CertificateRequest){
		"already over":  func(c *x509.Certificate, _ *x509.CertificateRequest) { c.NotAfter = c.NotBefore.Add(time.Second / 2) },
		"already due":   func(c *x509.Certificate, _ *x509.CertificateRequest) { c.NotBefore = c.NotBefore.Add(-3 * life) },
		"not yet valid": func(c *x509.Certificate, _ *x509.CertificateRequest) { c.NotBefore = c.NotBefore.Add(time.Minute) },
		"another key": func(_ *x509.Certificate, csr *x509.CertificateRequest) {
			key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
			if err != nil {
				panic(err)
			}
			csr.PublicKey = key.Public()
		},
	} {
		t.Run(what, func(t *testing.T) {
			s.ca.forge = forge
			asked := csrKeeper{s.ca}
			src, err := selfcert.New(selfcert.Config{
				DB: s.db, Authority: asked, Sealer: s.ring, Now: s.clock.now, Log: slog.New(slog.DiscardHandler),
			})
			if err != nil {
				t.Fatal(err)
			}
			defer src.Close()
			if err := src.Manage(t.Context(), []string{"localhost"}); err == nil {
				t.Error("taken")
			}
			var stored int
			if err := s.db.QueryRow(t.Context(), `SELECT count(*) FROM site_file`).Scan(&stored); err != nil || stored != 0 {
				t.Errorf("%d files stored, %v", stored, err)
			}
		})
	}
}

// A csrKeeper gives its authority a copy of the request.
type csrKeeper struct{ *authority }

func (k csrKeeper) IssueServer(ctx context.Context, csr *x509.CertificateRequest) ([]byte, error) {
	c := *csr
	return k.authority.IssueServer(ctx, &c)
}

// A crash between the writes of a renewal leaves the new key beside the old certificate, or a first certificate half
// written.
func TestTornPairIsReplaced(t *testing.T) {
	for what, sql := range map[string]string{
		"new key, old certificate": `UPDATE site_file SET value = old.value FROM old WHERE old.key = site_file.key AND old.key LIKE '%.crt'`,
		"only a key":               `DELETE FROM site_file WHERE key NOT LIKE '%.key'`,
		"no metadata":              `DELETE FROM site_file WHERE key LIKE '%.json'`,
		"no key":                   `DELETE FROM site_file WHERE key LIKE '%.key'`,
	} {
		t.Run(what, func(t *testing.T) {
			s := newSite(t)
			src := s.replica(t)
			manage(t, src, "localhost")
			exec(t, s.db, `CREATE TABLE old AS SELECT key, value FROM site_file`)
			s.clock.move(life * 2 / 3)
			src.Check(t.Context())
			s.issued(t, 2)
			exec(t, s.db, sql)

			next := s.replica(t)
			manage(t, next, "localhost")
			s.issued(t, 3)
			s.dial(t, serve(t, next), "localhost")
		})
	}
}

func TestStoredCertificateThatCannotBeOpenedIsNoReasonToIssue(t *testing.T) {
	s := newSite(t)
	manage(t, s.replica(t), "localhost")
	s.ring = kmstest.NewKeyring()
	if err := s.replica(t).Manage(t.Context(), []string{"localhost"}); err == nil {
		t.Error("managed")
	}
	s.issued(t, 1)
}

func TestCloseLeavesNothingRunning(t *testing.T) {
	s := newSite(t)
	src, err := selfcert.New(selfcert.Config{
		DB: s.db, Authority: s.ca, Sealer: s.ring, Now: s.clock.now, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	manage(t, src, "localhost")
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { src.Run(ctx) })
	stop()
	wg.Wait()
	src.Close()
	stacks := make([]byte, 1<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	if strings.Contains(string(stacks), "certmagic.(*Cache)") {
		t.Errorf("still running:\n%s", stacks)
	}
	var locked int
	if err := s.db.QueryRow(t.Context(), `SELECT count(*) FROM site_lock WHERE expires_at > clock_timestamp()`).Scan(&locked); err != nil || locked != 0 {
		t.Errorf("%d locks are held, %v", locked, err)
	}
}

func TestNewRefusesABackwardRenewalCheck(t *testing.T) {
	if _, err := selfcert.New(selfcert.Config{RenewCheck: -time.Second}); err == nil {
		t.Error("taken")
	}
}

func exec(t *testing.T, db *postgres.DB, sql string) {
	t.Helper()
	if _, err := db.Exec(t.Context(), sql); err != nil {
		t.Fatal(err)
	}
}
