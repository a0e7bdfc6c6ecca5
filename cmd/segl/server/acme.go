package server

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"time"

	"codeberg.org/dataverket/segl/acme"
	acmeapi "codeberg.org/dataverket/segl/acme/api"
	"codeberg.org/dataverket/segl/acme/store"
	"codeberg.org/dataverket/segl/internal/duty"
	limits "codeberg.org/dataverket/segl/internal/limit/store"
	"codeberg.org/dataverket/segl/internal/tenancy"
	"codeberg.org/dataverket/segl/internal/web"
)

// acmeSide is the ACME server and what runs behind it.
type acmeSide struct {
	store             *store.Store
	server            *acme.Server
	limits            *limits.Store
	service, operator web.Door
	office            web.Door // what operators decide about ACME
}

func (s *Server) openACME(context.Context) error {
	prove, err := s.openProving()
	if err != nil {
		return err
	}
	side := &acmeSide{store: store.New(s.walled, s.now)}
	side.limits = limits.Over(side.store.Ferry(), s.db, s.now, s.cfg.limited(acme.LimitsDefined()))
	side.server, err = acme.New(acme.Config{
		Site: byte(s.cfg.Site), Store: side.store, Issuer: s.ca, Scopes: s.scopes, NoScope: tenancy.ErrNotFound, //nolint:gosec // checked
		Validator: prove.world, Permission: prove.permission, Attester: prove.attester, TrustDomain: s.cfg.TrustDomain,
		Retries: s.cfg.ACME.Retries, Drafts: prove.drafts, Identities: s.cfg.ACME.CAA.Identities, AccountURL: s.cfg.URLs.accountURL, Now: s.now, Log: s.log,
		Sealer: s.keyring, Limits: metered(side.limits, s.registry), Terms: s.cfg.ACME.Terms,
	})
	if err != nil {
		return err
	}
	watchQueue(side.server, s.registry)
	side.service = acmeapi.Door(acmeapi.Config{Server: side.server, Base: s.cfg.URLs.Service})
	side.operator = acmeapi.Door(acmeapi.Config{Server: side.server, Base: s.cfg.URLs.Operator, Platform: true})
	side.office = acmeapi.Operator(side.server, below())
	s.duties = append(s.duties,
		duty.Duty{Name: "acme-star", Every: 10 * time.Second, Once: func(ctx context.Context, _ int64) error { return side.server.RenewStars(ctx) }},
		duty.Duty{Name: "limits-sweep", Every: time.Minute, Once: func(ctx context.Context, _ int64) error { return side.limits.Sweep(ctx) }},
		duty.Duty{Name: "acme-recover", Every: 10 * time.Second, Once: func(ctx context.Context, _ int64) error { return side.server.Recover(ctx) }},
		duty.Duty{Name: "acme-sweep", Every: time.Minute, Once: func(ctx context.Context, _ int64) error { return side.server.Sweep(ctx) }},
	)
	s.acme = side
	return nil
}

func (a *acmeSide) run(ctx context.Context, wait *sync.WaitGroup) {
	wait.Go(func() { a.server.Run(ctx) })
}

// own are our listeners: validation never connects to them.
func (l *listeners) own() []netip.AddrPort {
	return addressesOf(l.service, l.operator, l.public, l.private)
}

func addressesOf(all ...net.Listener) []netip.AddrPort {
	var out []netip.AddrPort
	for _, ln := range all {
		if a, err := netip.ParseAddrPort(ln.Addr().String()); err == nil {
			out = append(out, a)
		}
	}
	return out
}
