package web

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/labstack/echo/v4"

	"codeberg.org/dataverket/segl/internal/identity"
)

// A Config says what a Server is. The zero value of a bound is the default beside it.
type Config struct {
	Name    string // of the listener: service, operator, public, private
	TLS     *TLS   // nil: plain HTTP
	Clients *Clients
	Log     *slog.Logger
	Level   slog.Level // of the line each request leaves; a 500 leaves an error
	Metrics *Metrics
	Now     func() time.Time
	Wall    Wall // nil: a request's context is left as it is

	MaxBody        int64         // of a request, octets: 128 KiB
	MaxHeader      int           // of a request's header, octets: 16 KiB
	MaxConnections int           // at once: 4096; one more closes the longest idle, or is closed
	HeaderTimeout  time.Duration // from a connection's first octet to the end of the header: 5 s
	ReadTimeout    time.Duration // to the end of the body: 30 s
	HandlerTimeout time.Duration // a handler's deadline: 30 s
	WriteTimeout   time.Duration // to the end of the answer: 60 s
	IdleTimeout    time.Duration // between requests: 2 min
	Recheck        time.Duration // how often it is asked whether the caller of a stream is still admitted: 5 s
}

// A Wall says, once it is known who asks, whose data the request sees: in the context that its handler gets. Path is the
// request's.
type Wall func(ctx context.Context, who identity.Caller, path string) context.Context

// TLS says how a listener speaks it (RFC 8446; RFC 9325 §3.1.1).
type TLS struct {
	GetCertificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	MinVersion     uint16 // 0 is TLS 1.3; tls.VersionTLS12 is the lowest taken
}

// A Server serves doors on one listener.
type Server struct {
	name    string
	log     *slog.Logger
	level   slog.Level
	clients *Clients
	wall    Wall
	metrics *Metrics
	strays  *observers
	router  *echo.Echo
	http    http.Server
	conns   *connections
	maxBody int64
	timeout time.Duration
	recheck time.Duration
	now     func() time.Time

	draining context.Context // ends when Shutdown begins
	drain    context.CancelFunc
}

// NewServer returns a server of doors that is not yet listening. It panics on routes that cannot be mounted: they are
// written by us.
func NewServer(cfg Config, doors ...Door) (*Server, error) {
	if cfg.Name == "" || cfg.Log == nil || cfg.Metrics == nil || cfg.Now == nil {
		return nil, errors.New("making a server: Name, Log, Metrics and Now are needed")
	}
	if cfg.TLS != nil && cfg.TLS.MinVersion != 0 && cfg.TLS.MinVersion < tls.VersionTLS12 {
		return nil, fmt.Errorf("making server %s: TLS below 1.2 is not spoken (RFC 8996)", cfg.Name)
	}
	if cfg.Clients != nil && (cfg.TLS == nil || cfg.Clients.Roots == nil || cfg.Clients.Domain == "") {
		return nil, fmt.Errorf("making server %s: Clients needs TLS, Roots and Domain", cfg.Name)
	}
	cfg = cfg.withDefaults()
	s := &Server{
		name: cfg.Name, log: cfg.Log, level: cfg.Level, clients: cfg.Clients, wall: cfg.Wall, metrics: cfg.Metrics,
		maxBody: cfg.MaxBody, timeout: cfg.HandlerTimeout, conns: newConnections(cfg.MaxConnections), recheck: cfg.Recheck, now: cfg.Now,
	}
	s.draining, s.drain = context.WithCancel(context.Background())
	s.strays = s.metrics.observers(s.name, Route{Method: "any", Path: "none"})
	s.metrics.watch(s.name, s.conns)
	s.router = newRouter(s, doors)
	s.http = http.Server{
		Handler: s, ReadHeaderTimeout: cfg.HeaderTimeout, ReadTimeout: cfg.ReadTimeout, WriteTimeout: cfg.WriteTimeout,
		IdleTimeout: cfg.IdleTimeout, MaxHeaderBytes: cfg.MaxHeader, TLSConfig: cfg.tlsConfig(),
		ConnContext: withPeer, ConnState: s.conns.state,
		ErrorLog: slog.NewLogLogger(cfg.Log.With("listener", cfg.Name).Handler(), slog.LevelDebug), // handshakes that strangers broke off
	}
	return s, nil
}

// Serve answers on ln until Shutdown, which makes it return nil. It closes ln.
func (s *Server) Serve(ln net.Listener) error {
	serve := func() error { return s.http.Serve(ln) }
	if s.http.TLSConfig != nil {
		serve = func() error { return s.http.ServeTLS(ln, "", "") }
	}
	if err := serve(); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving %s on %s: %w", s.name, ln.Addr(), err)
	}
	return nil
}

// Shutdown takes no more connections, ends streams and waits for the requests under way; when ctx ends first it cuts them
// off and says so.
func (s *Server) Shutdown(ctx context.Context) error {
	s.drain()
	if err := s.http.Shutdown(ctx); err != nil {
		_ = s.http.Close()
		return fmt.Errorf("draining %s: requests were cut off: %w", s.name, err)
	}
	return nil
}

func (cfg *Config) tlsConfig() *tls.Config {
	if cfg.TLS == nil {
		return nil
	}
	c := &tls.Config{
		GetCertificate: cfg.TLS.GetCertificate, MinVersion: max(cfg.TLS.MinVersion, tls.VersionTLS12),
		NextProtos: []string{"h2", "http/1.1"},
	}
	if cfg.TLS.MinVersion == 0 {
		c.MinVersion = tls.VersionTLS13
	}
	if cfg.Clients != nil {
		c.ClientAuth, c.Time = tls.RequestClientCert, cfg.Now // verified by Clients, which says why
	}
	return c
}

func (cfg Config) withDefaults() Config {
	orElse(&cfg.MaxBody, 128<<10)
	orElse(&cfg.MaxHeader, 16<<10)
	orElse(&cfg.MaxConnections, 4096)
	orElse(&cfg.HeaderTimeout, 5*time.Second)
	orElse(&cfg.ReadTimeout, 30*time.Second)
	orElse(&cfg.HandlerTimeout, 30*time.Second)
	orElse(&cfg.WriteTimeout, time.Minute)
	orElse(&cfg.IdleTimeout, 2*time.Minute)
	orElse(&cfg.Recheck, 5*time.Second)
	return cfg
}

func orElse[T comparable](v *T, otherwise T) {
	var zero T
	if *v == zero {
		*v = otherwise
	}
}
