package server

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"codeberg.org/dataverket/segl/acme"
	acmeapi "codeberg.org/dataverket/segl/acme/api"
	"codeberg.org/dataverket/segl/acme/store"
	"codeberg.org/dataverket/segl/acme/validate"
	"codeberg.org/dataverket/segl/internal/duty"
	"codeberg.org/dataverket/segl/internal/tenancy"
	"codeberg.org/dataverket/segl/internal/web"
)

// acmeSide is the ACME server and what runs behind it.
type acmeSide struct {
	store             *store.Store
	server            *acme.Server
	service, operator web.Door
}

func (s *Server) openACME(context.Context) error {
	validator, err := validate.New(validate.Config{
		Resolver: s.cfg.ACME.Resolver, HTTPPort: uint16(s.cfg.ACME.HTTPPort), TLSPort: uint16(s.cfg.ACME.TLSPort), //nolint:gosec // checked
		Egress: validate.Egress{Allowed: s.cfg.ACME.Allowed, Denied: s.cfg.ACME.Denied, Loopback: s.cfg.loopback, Own: s.listen.own()},
	})
	if err != nil {
		return fmt.Errorf("preparing ACME validation: %w", err)
	}
	side := &acmeSide{store: store.New(s.db, s.now)}
	side.server, err = acme.New(acme.Config{
		Site: byte(s.cfg.Site), Store: side.store, Issuer: s.ca, Scopes: s.scopes, NoScope: tenancy.ErrNotFound, //nolint:gosec // checked
		Validator: validator, Now: s.now, Log: s.log,
	})
	if err != nil {
		return err
	}
	side.service = acmeapi.Door(acmeapi.Config{Server: side.server, Base: s.cfg.URLs.Service})
	side.operator = acmeapi.Door(acmeapi.Config{Server: side.server, Base: s.cfg.URLs.Operator, Platform: true})
	s.duties = append(s.duties,
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
	var out []netip.AddrPort
	for _, ln := range []net.Listener{l.service, l.operator, l.public, l.private} {
		if a, err := netip.ParseAddrPort(ln.Addr().String()); err == nil {
			out = append(out, a)
		}
	}
	return out
}
