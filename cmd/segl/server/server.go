package server

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/ca/incident"
	"codeberg.org/dataverket/segl/ca/ledger"
	"codeberg.org/dataverket/segl/ca/proof"
	"codeberg.org/dataverket/segl/ca/seal"
	sealstore "codeberg.org/dataverket/segl/ca/seal/store"
	tokenstore "codeberg.org/dataverket/segl/credentials/token/store"
	accessstore "codeberg.org/dataverket/segl/internal/access/store"
	"codeberg.org/dataverket/segl/internal/breakglass"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/duty"
	"codeberg.org/dataverket/segl/internal/feed"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/oidc"
	"codeberg.org/dataverket/segl/internal/policy"
	"codeberg.org/dataverket/segl/internal/postgres"
	"codeberg.org/dataverket/segl/internal/selfcert"
	"codeberg.org/dataverket/segl/internal/tenancy"
	"codeberg.org/dataverket/segl/internal/web"
	"codeberg.org/dataverket/segl/kms"
	"codeberg.org/dataverket/segl/kms/softkms"
	"codeberg.org/dataverket/segl/kms/stepkms"
	"codeberg.org/dataverket/segl/migrations"
)

// unlogged are the tables that are meant to be empty after a crash: nonces, which must then all be void, and what was used of
// limits, which then begins anew.
var unlogged = []string{"acme_boot", "acme_nonce", "limit_bucket"}

// A Server is one running segl. Open makes one and Run serves it.
type Server struct {
	cfg       Config
	log       *slog.Logger
	now       func() time.Time
	db        *postgres.DB
	walled    *postgres.DB // owner's work as db, tenants' behind their wall
	ledger    *ledger.Ledger
	scopes    *tenancy.Registry
	access    *accessstore.Registry
	deletions *tenancy.Deleter
	keyring   kms.Keyring
	apart     *breakglass.Guard // nil: no emergency CA is named
	provider  *stepkms.Provider // nil: the keyring keeps its keys itself
	ca        *ca.CA
	standing  *ca.Standing
	roots     atomic.Pointer[x509.CertPool]
	registry  *prometheus.Registry
	metrics   *web.Metrics
	selfcert  *selfcert.Source
	feed      *feed.Hub
	health    *web.Health
	status    *status
	fence     seal.Fence
	seals     *sealing
	acme      *acmeSide
	tokens    map[string]web.Verifier // of access tokens, by issuer
	providers []*oidc.Provider
	judge     *proof.Judge // of enrolment proofs
	oauth     *oauth
	listen    listeners
	duties    []duty.Duty
	revoked   chan struct{} // wakes the CRL duty

	leases    *leasing
	desk      *incident.Desk
	incidents chan struct{} // wakes the duty that carries them out
	changed   chan struct{} // wakes who reads the authorities
}

// Migrate brings the schema of the configured database up to this program's.
func Migrate(ctx context.Context, cfg Config) error {
	u, err := cfg.databaseURL()
	if err != nil {
		return err
	}
	return postgres.Migrate(ctx, u, migrations.FS)
}

// Open brings everything up to the point where Run can serve: schema, ledger, keys, authorities, listeners. Opening is
// where a database, a passphrase or a key that cannot be trusted is refused.
func Open(ctx context.Context, cfg Config, log *slog.Logger) (*Server, error) {
	if err := cfg.check(); err != nil {
		return nil, fmt.Errorf("checking configuration: %w", err)
	}
	ctx = postgres.AsOwner(ctx)
	s := &Server{cfg: cfg, log: log, now: cfg.now(), registry: prometheus.NewRegistry(), revoked: make(chan struct{}, 1), incidents: make(chan struct{}, 1), changed: make(chan struct{}, 1)}
	s.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	s.metrics = web.NewMetrics(s.registry)
	for _, step := range []func(context.Context) error{
		s.openDatabase, s.openWall, s.openListeners, s.openLedger, s.openFeed, s.openKeys, s.openSeal, s.openCA, s.openStatus, s.openLever, s.openACME, s.openOIDC, s.openTokens, s.openLeases, s.openCertificates,
	} {
		if err := step(ctx); err != nil {
			s.Close()
			return nil, err
		}
	}
	s.addHealth()
	return s, nil
}

func (s *Server) openDatabase(ctx context.Context) error {
	u, err := s.cfg.databaseURL()
	if err != nil {
		return err
	}
	if err := postgres.Migrate(ctx, u, migrations.FS); err != nil {
		return err
	}
	s.db, err = postgres.Open(ctx, postgres.Config{URL: u, MaxConns: s.cfg.Database.MaxConns})
	if err != nil {
		return err
	}
	if err := s.checkDurability(ctx); err != nil {
		return err
	}
	return s.arrive(ctx)
}

func (s *Server) checkDurability(ctx context.Context) error {
	allow, err := postgres.ParseUnsafe(s.cfg.Database.AllowUnsafe)
	if err != nil {
		return err
	}
	return postgres.CheckDurability(ctx, s.db, allow, unlogged...)
}

// openLedger readies the partitions before anything can be written, and the scopes.
func (s *Server) openLedger(ctx context.Context) error {
	s.ledger = ledger.New(s.walled, byte(s.cfg.Site)) //nolint:gosec // checked
	if _, err := s.ledger.MakeEpochs(ctx, s.now()); err != nil {
		return fmt.Errorf("making the ledger's partitions: %w", err)
	}
	var err error
	if s.scopes, err = tenancy.Open(ctx, s.db, s.now); err != nil {
		return err
	}
	if s.access, err = accessstore.Open(ctx, s.db, s.cfg.DualControl.rule(), s.now); err != nil {
		return err
	}
	return s.ownRights(ctx)
}

// ownRights lets the platform bear the names of its own listeners. Names of former URLs stay until an operator takes them
// away.
func (s *Server) ownRights(ctx context.Context) error {
	want := policy.Rights{DNS: []string{}, IP: []string{}, SPIFFE: []string{"*"}}
	for _, name := range s.ownNames() {
		if net.ParseIP(name) != nil {
			want.IP = append(want.IP, name)
		} else {
			want.DNS = append(want.DNS, name)
		}
	}
	who := identity.System("start")
	has, err := s.scopes.Scope(identity.Platform)
	if errors.Is(err, tenancy.ErrNotFound) {
		_, err = s.scopes.Create(ctx, who, identity.Platform, want)
		if errors.Is(err, tenancy.ErrExists) { // another replica was faster
			return s.scopes.Reload(ctx)
		}
		return err
	}
	if err != nil {
		return err
	}
	if merged, changed := merge(has.Rights, want); changed {
		_, err = s.scopes.SetRights(ctx, who, identity.Platform, merged)
	}
	return err
}

// ownNames are the hosts of the base URLs that clients are given, and those that only dev adds.
func (s *Server) ownNames() []string {
	var names []string
	seen := map[string]bool{}
	add := func(host string) {
		if host != "" && !seen[host] {
			seen[host] = true
			names = append(names, host)
		}
	}
	for _, base := range []string{s.cfg.URLs.Service, s.cfg.URLs.Operator} {
		if u, err := url.Parse(base); err == nil {
			add(u.Hostname())
		}
	}
	for _, n := range s.cfg.names {
		add(n)
	}
	return names
}

func (s *Server) openKeys(ctx context.Context) error {
	pass, err := softkms.ReadPassphrase(s.cfg.PassphraseFile)
	if err != nil {
		return err
	}
	k := s.cfg.Keys
	keys := softkms.Config{DB: s.db, Passphrase: pass, Now: s.now, Limits: kms.Limits{Workers: k.Workers, Queue: k.Queue, Deadline: k.Deadline}}
	if k.Provider != "" {
		if s.provider, err = stepkms.Open(ctx, k.Provider); err != nil {
			return err
		}
		keys.Provider = s.provider
	}
	keyring, err := softkms.Open(ctx, keys)
	if err != nil {
		return err
	}
	if s.apart, err = breakglass.Parse(s.cfg.BreakGlass); err != nil {
		return err
	}
	s.keyring = apartKeys{keyring, s.apart}
	return nil
}

func (s *Server) openCA(ctx context.Context) error {
	observed := observe(s.ledger, s.registry, s.ended)
	if err := s.openJudge(); err != nil {
		return err
	}
	policies, err := s.cfg.Authorities.policies()
	if err != nil {
		return err
	}
	s.ca, err = ca.New(ca.Config{
		Policies: policies,
		Site:     byte(s.cfg.Site), TrustDomain: s.cfg.TrustDomain, PublicURL: s.cfg.URLs.Public, Ledger: observed, Scopes: s.scopes, Parts: s.ledger.Parts, Fence: s.fence.Fenced, Published: s.published, Guard: s.access.Guard, Methods: s.ledger, Judge: s.judge, BreakGlass: s.apart, Admitted: s.admitted, Now: s.now, //nolint:gosec // checked
	})
	if err != nil {
		return err
	}
	if err := s.ledger.Alone(ctx, "found", func(ctx context.Context) error { return s.ca.Found(ctx, s.keyring) }); err != nil {
		return err
	}
	s.standing = ca.NewStanding(observed, s.now)
	s.addRotation()
	s.trust()
	s.duties = append(s.duties,
		duty.Duty{Name: "recover", Every: 5 * time.Second, Once: func(ctx context.Context, _ int64) error {
			gone, err := s.ca.Abandon(ctx)
			for _, serial := range gone {
				s.log.Warn("intent abandoned", "serial", serial.String())
			}
			return err
		}},
		duty.Duty{Name: "epochs", Every: time.Hour, Once: func(ctx context.Context, _ int64) error {
			made, err := s.ledger.MakeEpochs(ctx, s.now())
			if made > 0 {
				s.log.Info("partitions made", "count", made)
			}
			_, errClose := s.ledger.CloseEpochs(ctx, s.now())
			return errors.Join(err, errClose, s.ledger.ForgetRequests(ctx, s.now()), s.leave(ctx))
		}},
	)
	return nil
}

// openCertificates gets the listeners' own certificates, from our own authority.
func (s *Server) openCertificates(ctx context.Context) error {
	var err error
	s.selfcert, err = selfcert.New(selfcert.Config{
		DB: s.db, Authority: own{s.ca}, Sealer: s.keyring, DefaultName: s.ownNames()[0], Now: s.now, Log: s.log,
	})
	if err != nil {
		return err
	}
	return s.selfcert.Manage(ctx, s.ownNames())
}

// Run serves until ctx ends, then drains. ready is called once every listener answers.
func (s *Server) Run(ctx context.Context, ready func(Addresses) error) error {
	ctx, stop := context.WithCancel(postgres.AsOwner(ctx))
	defer stop()
	var background sync.WaitGroup
	defer background.Wait()
	defer stop()
	for _, d := range s.duties {
		background.Go(func() { duty.Run(ctx, s.db, d, s.log) })
	}
	background.Go(func() { s.hear(ctx) })
	background.Go(func() { s.selfcert.Run(ctx) })
	background.Go(func() { s.delegates(ctx) })
	background.Go(func() { s.status.receipts.run(ctx) })
	background.Go(func() { s.authorities(ctx) })
	background.Go(func() { s.watchFence(ctx) })
	background.Go(func() { s.feed.Run(ctx) })
	s.acme.run(ctx, &background)
	s.oauth.run(ctx, s, &background)
	background.Go(func() { s.leases.watch(ctx, s.registry, s.now) })

	all, err := s.servers()
	if err != nil {
		return err
	}
	failed := make(chan error, 1)
	background.Go(func() {
		err := s.answering(ctx)
		if err == nil {
			err = ready(s.listen.addresses(s.cfg))
		}
		failed <- err
		if err != nil {
			stop() // nobody would ever hear of it
		}
	})
	err = web.Run(ctx, s.health, web.Drain{Within: s.cfg.Drain}, all...)
	select {
	case readyErr := <-failed:
		return errors.Join(err, readyErr)
	default:
		return err
	}
}

// hear acts on notices from other replicas. A connection that was lost may have missed some: everything is read again.
func (s *Server) hear(ctx context.Context) {
	postgres.Listen(ctx, s.db, postgres.Listener{
		Channels: []string{ledger.RevokedChannel, ledger.AuthoritiesChannel, ledger.IncidentsChannel, tenancy.Channel, sealstore.FenceChannel, tokenstore.Channel},
		Connected: func() {
			s.standing.Drop(cert.Serial{})
			s.status.responder.Listening()
			wake(s.changed)
			s.reloadScopes(ctx)
		},
		Lost: s.status.responder.Deafen,
		Notice: func(channel, payload string) {
			s.feed.Wake() // whatever it is, it left a fact
			switch channel {
			case ledger.AuthoritiesChannel:
				wake(s.changed)
			case ledger.IncidentsChannel:
				wake(s.incidents)
			case ledger.RevokedChannel:
				if payload == "" { // many at once
					s.ended(cert.Serial{})
				}
				s.endedAll(payload)
			case tenancy.Channel:
				wake(s.leases.wake) // perhaps a suspension
				s.reloadScopes(ctx)
				s.oauth.server.Moved()
			case tokenstore.Channel:
				s.oauth.reload(ctx, s, true)
				wake(s.oauth.wake)
			case sealstore.FenceChannel:
				if err := s.readFence(ctx, s.seals.store); err != nil && ctx.Err() == nil {
					s.log.Error("fence not read", "err", err)
				}
			}
		},
		Log: s.log,
	})
}

// endedAll reads a notice: serials, or nothing where too many ended to be named.
func (s *Server) endedAll(payload string) {
	if payload == "" {
		s.ended(cert.Serial{})
	}
	for text := range strings.FieldsSeq(payload) {
		if serial, err := cert.ParseSerial(text); err == nil {
			s.ended(serial)
		}
	}
}

// ended makes this replica forget what it believed about a serial that is revoked, the zero Serial being many, and wakes the
// duties that publish it. An authority's own certificate may be among them.
func (s *Server) ended(serial cert.Serial) {
	s.standing.Drop(serial)
	s.status.drop(serial)
	if s.leases != nil {
		s.leases.office.Hear(serial)
	}
	if s.oauth != nil {
		s.oauth.server.End(serial)
		wake(s.oauth.wake)
	}
	wake(s.revoked)
	wake(s.status.receipts.wake)
	for _, a := range s.ca.Authorities() {
		if own, ok := a.Serial(); ok && (serial.IsZero() || own == serial) {
			wake(s.changed)
		}
	}
}

func (s *Server) reloadScopes(ctx context.Context) {
	s.ledger.ForgetScopes()
	if err := errors.Join(s.scopes.Reload(ctx), s.access.Reload(ctx)); err != nil && ctx.Err() == nil {
		s.log.Error("scopes not reloaded", "err", err)
	}
}

// Close lets go of everything that Open took. Run has returned by then.
func (s *Server) Close() {
	s.listen.close()
	if s.judge != nil {
		s.judge.Close()
	}
	for _, p := range s.providers {
		p.Close()
	}
	if s.selfcert != nil {
		s.selfcert.Close()
	}
	if s.acme != nil {
		s.acme.store.Close()
		s.acme.limits.Close()
	}
	if s.ledger != nil {
		s.ledger.Close()
	}
	if s.leases != nil {
		for _, closed := range s.leases.close {
			closed()
		}
	}
	if s.provider != nil {
		s.provider.Close() //nolint:errcheck // nothing of it is needed any more
	}
	if s.walled != nil {
		s.walled.Close()
	}
	if s.db != nil {
		s.db.Close()
	}
}

func merge(has, want policy.Rights) (policy.Rights, bool) {
	changed := false
	union := func(a, b []string) []string {
		out := append([]string{}, a...)
		for _, v := range b {
			found := false
			for _, o := range out {
				found = found || o == v
			}
			if !found {
				out, changed = append(out, v), true
			}
		}
		return out
	}
	return policy.Rights{DNS: union(has.DNS, want.DNS), IP: union(has.IP, want.IP), SPIFFE: union(has.SPIFFE, want.SPIFFE)}, changed
}
