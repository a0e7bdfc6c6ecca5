package server

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/ca/ledger"
	"codeberg.org/dataverket/segl/ca/ocsp"
	"codeberg.org/dataverket/segl/credentials"
	"codeberg.org/dataverket/segl/credentials/mysql"
	"codeberg.org/dataverket/segl/credentials/postgres"
	"codeberg.org/dataverket/segl/credentials/redis"
	"codeberg.org/dataverket/segl/credentials/store"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/duty"
	"codeberg.org/dataverket/segl/internal/identity"
	dbase "codeberg.org/dataverket/segl/internal/postgres"
)

// Leases says how logins at databases are made.
type Leases struct {
	// RedisPasswordFile holds the password of our login at Redis targets of the platform, beside our certificate: such a server
	// knows no names of certificates. It is read at each connection. Default: none, and no such target can be used.
	RedisPasswordFile string `yaml:"redis_password_file"`
	// RedisPasswordFiles are those for tenants' targets, by tenant, each its own: who may name a tenant's targets can have its
	// password sent to any server.
	RedisPasswordFiles map[string]string `yaml:"redis_password_files"`
}

// RedisPassword returns the password of our login at a target, empty where there is none for whose it is.
func (l Leases) RedisPassword(t credentials.Target) credentials.Secret {
	file := l.RedisPasswordFiles[t.Scope.Tenant()]
	if t.Scope.IsPlatform() {
		file = l.RedisPasswordFile
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return credentials.Secret{} // the target cannot be used, and says so
	}
	return credentials.NewSecret(strings.TrimSpace(string(b)))
}

// leasing is what makes logins at databases, and ends them.
type leasing struct {
	office  *credentials.Office
	book    *store.Store
	wake    chan struct{}
	close   []func()
	reviews time.Time // of the duty alone: when living leases were last looked at
}

// How often the duty looks at everything, beside what it is woken for.
const (
	reviewEvery = 15 * time.Second
	sweepEvery  = 5 * time.Minute
	mostRounds  = 100 // of Cascade in a run: then the lease on the duty is looked at again
)

// openLeases wires the office to the ledger and to each kind of target.
func (s *Server) openLeases(context.Context) error {
	pass := &manager{ca: s.ca, domain: s.cfg.TrustDomain, now: s.now}
	pg := postgres.New(postgres.Config{Certificate: pass.Certificate, Roots: s.roots.Load, Now: s.now})
	my := mysql.New(mysql.Config{Certificate: pass.Certificate, Roots: s.roots.Load, Now: s.now})
	rd := redis.New(redis.Config{Certificate: pass.Certificate, Roots: s.roots.Load, Password: s.cfg.Leases.RedisPassword, Now: s.now})
	l := &leasing{book: store.New(s.walled), wake: make(chan struct{}, 1), close: []func(){pg.Close, my.Close, rd.Close}}
	events := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "segl_leases_total", Help: "Leases by what happened to them."}, []string{"event"})
	for _, e := range credentials.Events() {
		events.WithLabelValues(e)
	}
	s.registry.MustRegister(events)
	l.office = credentials.New(credentials.Config{
		Site: byte(s.cfg.Site), Book: l.book, Certificates: evidence{s.ca, s.ledger}, Now: s.now, Fenced: s.fence.Fenced, //nolint:gosec // checked
		Backends: map[credentials.Kind]credentials.Backend{credentials.PostgreSQL: pg, credentials.MySQL: my, credentials.Redis: rd},
		Count:    func(event string, _ credentials.Kind, n int) { events.WithLabelValues(event).Add(float64(n)) },
		Wake:     func() { wake(l.wake) },
	})
	s.leases = l
	s.duties = append(s.duties, l.duties(s.now)...)
	return nil
}

// duties are two, so that targets that hang while they are swept keep nobody's sessions alive.
func (l *leasing) duties(now func() time.Time) []duty.Duty {
	return []duty.Duty{
		{Name: "leases", Every: time.Second, Wake: l.wake, Once: func(ctx context.Context, _ int64) error { return l.once(ctx, now()) }},
		{Name: "lease-sweep", Every: sweepEvery, Once: func(ctx context.Context, _ int64) error { return l.office.Sweep(ctx) }},
	}
}

// once makes true at targets what has ended, and now and then looks at all that lives.
func (l *leasing) once(ctx context.Context, now time.Time) error {
	var errs error
	if now.Sub(l.reviews).Abs() >= reviewEvery {
		if errs = l.office.Review(ctx); errs == nil {
			l.reviews = now
		}
	}
	for more, round := true, 0; more && round < mostRounds; round++ {
		var err error
		if more, err = l.office.Cascade(ctx); err != nil {
			return errors.Join(errs, err)
		}
	}
	return errs
}

// watch keeps the measures of what targets owe until ctx ends: on every replica, so that whichever is asked knows.
func (l *leasing) watch(ctx context.Context, r prometheus.Registerer, now func() time.Time) {
	owed := prometheus.NewGauge(prometheus.GaugeOpts{Name: "segl_leases_owed", Help: "Ended leases that their targets still have."})
	oldest := prometheus.NewGauge(prometheus.GaugeOpts{Name: "segl_leases_owed_seconds", Help: "For how long the oldest of them has ended."})
	overdue := prometheus.NewGauge(prometheus.GaugeOpts{Name: "segl_leases_overdue_targets", Help: "Targets at which a try to end a lease failed."})
	r.MustRegister(owed, oldest, overdue)
	tick := time.NewTicker(5 * time.Second)
	defer tick.Stop()
	for {
		debts, err := l.book.Debt(ctx)
		if err == nil {
			n, late, age := 0, 0, time.Duration(0)
			for _, d := range debts {
				n, age = n+d.Leases, max(age, now().Sub(d.Since))
				if d.Tries > 0 {
					late++
				}
			}
			owed.Set(float64(n))
			oldest.Set(age.Seconds())
			overdue.Set(float64(late))
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// evidence answers for certificates from the ledger.
type evidence struct {
	ca     *ca.CA
	ledger *ledger.Ledger
}

// Certificate implements credentials.Certificates.
func (e evidence) Certificate(ctx context.Context, s cert.Serial) (credentials.Evidence, error) {
	c, err := e.ca.Certificate(dbase.AsOwner(ctx), s)
	if errors.Is(err, ca.ErrNotFound) {
		return credentials.Evidence{}, fmt.Errorf("%w: certificate %s", credentials.ErrNotFound, s)
	}
	return credentials.Evidence{NotAfter: c.NotAfter, Role: c.Role, Revoked: c.Revoked != nil}, err
}

// Revoked implements credentials.Certificates.
func (e evidence) Revoked(ctx context.Context, list []cert.Serial) (map[cert.Serial]time.Time, error) {
	all, err := e.ledger.Status(dbase.AsOwner(ctx), list) // a certificate that cannot be seen would read as one that stands
	out := make(map[cert.Serial]time.Time)
	for s, st := range all {
		if st.State == ocsp.Revoked {
			out[s] = st.At
		}
	}
	return out, err
}

// A manager is who we are at targets: a database client's certificate for role segl of the platform, made in process and
// renewed at half its life. Its key is nowhere but in memory.
type manager struct {
	ca     *ca.CA
	domain string
	now    func() time.Time

	mu    sync.Mutex // guards below; held while one is made
	pair  *tls.Certificate
	until time.Time
}

const managerLife = 24 * time.Hour

// Certificate returns the one of the moment.
func (m *manager) Certificate(ctx context.Context) (*tls.Certificate, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.pair != nil && m.now().Before(m.until) {
		return m.pair, nil
	}
	pair, err := m.issue(dbase.AsOwner(context.WithoutCancel(ctx)))
	if err != nil {
		return nil, fmt.Errorf("certifying ourselves at targets: %w", err)
	}
	m.pair, m.until = pair, m.now().Add(managerLife/2)
	return pair, nil
}

func (m *manager) issue(ctx context.Context) (*tls.Certificate, error) {
	id, err := identity.NewID(m.domain, identity.Platform, "segl")
	if err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "segl"}}, key)
	if err != nil {
		return nil, err
	}
	csr, err := cert.ParseRequest(der)
	if err != nil {
		return nil, err
	}
	c, err := m.ca.Issue(ctx, identity.System("leases"), ca.Request{
		Scope: identity.Platform, Profile: "database-client", CSR: csr, Identity: id, Life: managerLife, Own: true,
	})
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: append([][]byte{c.DER}, c.Chain...), PrivateKey: key}, nil
}
