// Package selfcert keeps the certificates of the service's own listeners: issued by its own authority, shared by all
// replicas, renewed and swapped under open connections.
//
// certmagic makes keys and requests, keeps what it gets in a Storage (here Postgres, sealed by the keyring), lets one
// replica at a time obtain a certificate, and picks the one a handshake asks for. When to renew is decided here, because
// certmagic judges by the machine's clock and has no other to set: its own maintenance is asleep, its ACME side unused,
// OCSP stapling off and its logging nowhere. So the process's one clock (--clock-offset included) decides, and a
// certificate from a time that is not now, because the clock was set back, is renewed as well.
//
//	             none, or due          in storage and not due
//	serving ◄───────────────── check ───────────────────────► serving what another replica got
//	   ▲                         │ lock, look again, issue
//	   └───── swap ◄── store ◄───┘
//
// A certificate is due when a third of its life is left. When renewing fails the old one is served, as long as it takes,
// and every check tries again.
//
// The invariant: a private key leaves this process only sealed, and what stands in storage was issued for the key beside
// it; a crash between the two writes is mended by issuing anew.
//
// A Source may be used concurrently.
package selfcert

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"

	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/postgres"
)

// Config says what a Source works with.
type Config struct {
	DB        *postgres.DB
	Authority Authority
	Sealer    Sealer
	// DefaultName is whose certificate a client gets that names no server, or one we are not; unless it connected to an
	// address that has a certificate of its own. Empty: the first name that Manage was given.
	DefaultName string
	// RenewCheck is the time between two looks at the clock. It must be well below a third of the shortest certificate's
	// life. Zero: one minute.
	RenewCheck time.Duration
	// Now is the process's clock.
	Now func() time.Time
	Log *slog.Logger
}

// A Source serves certificates to listeners.
type Source struct {
	cfg     Config
	storage *storage
	cache   *certmagic.Cache
	turn    chan struct{} // held by whoever looks for and swaps certificates

	mu    sync.Mutex
	magic *certmagic.Config
	names []string
	live  map[string]certmagic.Certificate // what is served for each name
}

const (
	defaultRenewCheck = time.Minute
	never             = time.Duration(math.MaxInt64)
	// tendTimeout bounds obtaining one certificate. It outlasts the lock of a replica that vanished, and then the work.
	tendTimeout = 30 * time.Second
)

// New returns a source that serves nothing yet. Close it.
func New(cfg Config) (*Source, error) {
	if cfg.RenewCheck < 0 {
		return nil, fmt.Errorf("listener certificates: renewal check every %s: want a positive time, or 0 for the default", cfg.RenewCheck)
	}
	if cfg.RenewCheck == 0 {
		cfg.RenewCheck = defaultRenewCheck
	}
	s := &Source{
		cfg: cfg, storage: &storage{db: cfg.DB, sealer: cfg.Sealer, held: make(map[string]string)},
		turn: make(chan struct{}, 1), live: make(map[string]certmagic.Certificate),
	}
	s.cache = certmagic.NewCache(certmagic.CacheOptions{
		GetConfigForCert:   func(certmagic.Certificate) (*certmagic.Config, error) { return s.config(), nil },
		RenewCheckInterval: never, OCSPCheckInterval: never,
		Logger: zap.NewNop(),
	})
	s.magic = s.configure(cfg.DefaultName)
	return s, nil
}

func (s *Source) configure(defaultName string) *certmagic.Config {
	return certmagic.New(s.cache, certmagic.Config{
		DefaultServerName: defaultName, FallbackServerName: defaultName,
		Issuers:             []certmagic.Issuer{issuer{s.cfg.Authority, s.due}},
		KeySource:           certmagic.StandardKeyGenerator{KeyType: certmagic.P256},
		Storage:             s.storage,
		DisableStorageCheck: true, // it writes and deletes a row before each certificate; our storage is the ledger's database
		DisableARI:          true,
		OCSP:                certmagic.OCSPConfig{DisableStapling: true},
		OnEvent:             s.onEvent,
		ShouldEmitFunc:      func(string) bool { return false }, // none a handshake, please
		Logger:              zap.NewNop(),
	})
}

func (s *Source) config() *certmagic.Config {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.magic
}

// Manage sees to it that there is a certificate for each name, a DNS name or an IP address, before it returns: one that
// another replica or an earlier start got, if it is not due. From then on Run renews it. More names may be added later.
func (s *Source) Manage(ctx context.Context, names []string) error {
	for _, name := range names {
		if err := check(name); err != nil {
			return fmt.Errorf("listener certificates: %w", err)
		}
	}
	for _, name := range names {
		s.add(name)
		if err := s.tend(ctx, name); err != nil {
			return fmt.Errorf("getting listener certificate for %s: %w", name, err)
		}
	}
	return nil
}

func check(name string) error {
	_, notDNS := cert.ParseDNS(name)
	if _, notIP := cert.ParseIP(name); notDNS != nil && notIP != nil {
		return fmt.Errorf("%w; and %w", notDNS, notIP)
	}
	return nil
}

func (s *Source) add(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.Contains(s.names, name) {
		s.names = append(s.names, name)
	}
	if s.magic.DefaultServerName == "" {
		s.magic = s.configure(name)
	}
}

// Run renews what Manage was given until ctx ends, and has let go of its locks when it returns.
func (s *Source) Run(ctx context.Context) {
	ticker := time.NewTicker(s.cfg.RenewCheck)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			s.Check(ctx)
		}
	}
}

// Check renews now what is due. Failures are logged: the old certificate is still served.
func (s *Source) Check(ctx context.Context) {
	s.mu.Lock()
	names := slices.Clone(s.names)
	s.mu.Unlock()
	for _, name := range names {
		if err := s.tend(ctx, name); err != nil && ctx.Err() == nil {
			s.cfg.Log.Error("listener certificate not renewed", "name", name, "not_after", s.expiry(name), "err", err)
		}
	}
}

// Expires returns when the first of the certificates being served ends, the zero time when none is.
func (s *Source) Expires() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	var first time.Time
	for _, c := range s.live {
		if first.IsZero() || c.Leaf.NotAfter.Before(first) {
			first = c.Leaf.NotAfter
		}
	}
	return first
}

func (s *Source) expiry(name string) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c, ok := s.live[name]; ok {
		return c.Leaf.NotAfter
	}
	return time.Time{}
}

// errNone: Manage has not been called, or has failed.
var errNone = errors.New("no listener certificate yet")

// GetCertificate is for tls.Config. Open connections keep the certificate they began with.
func (s *Source) GetCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	magic := s.config()
	if magic.DefaultServerName == "" {
		return nil, errNone
	}
	return magic.GetCertificate(hello)
}

// TLSConfig returns a server's configuration: our certificates, our clock, TLS 1.2 or later, HTTP/2 and HTTP/1.1. The
// caller adds what it wants of clients. NextProtos must not become empty: what then asks for a tls-alpn-01 answer
// would make certmagic look for one in the database.
func (s *Source) TLSConfig() *tls.Config {
	return &tls.Config{
		GetCertificate: s.GetCertificate,
		Time:           s.cfg.Now,
		MinVersion:     tls.VersionTLS12,
		NextProtos:     []string{"h2", "http/1.1"},
	}
}

// Close ends what New began. Let Run return first.
func (s *Source) Close() { s.cache.Stop() }
