package server

import (
	"context"

	acmeapi "codeberg.org/dataverket/segl/acme/api"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/postgres"
)

// Whose rows a request sees is decided here, once, from who its caller was found to be, and held by the database: the stores
// behind the service listener work through a pool that is walled (internal/postgres). Nothing that a request names counts, but
// for ACME: there the directory's scope is that of its accounts, and a request proves its account to the domain.

// openWall opens the walled pool, and refuses to go on where the wall has a hole.
func (s *Server) openWall(ctx context.Context) error {
	var err error
	s.walled, err = s.db.Walled(ctx)
	return err
}

// tenantsWall says whose rows the service listener's requests see. Never the platform's.
func (s *Server) tenantsWall(ctx context.Context, who identity.Caller, path string) context.Context {
	if directory, ok := acmeapi.ScopeOf(path); ok {
		return postgres.Within(s.wall(ctx, directory))
	}
	return postgres.Within(s.wall(ctx, s.homes(ctx, who)...))
}

func (s *Server) wall(ctx context.Context, roots ...identity.Scope) (_ context.Context, scopes, above []int32) {
	scopes, above = s.scopes.Wall(roots...)
	return ctx, scopes, above
}

// homes are the scopes that a caller was authenticated for.
func (s *Server) homes(ctx context.Context, who identity.Caller) []identity.Scope {
	roots := []identity.Scope{who.ID.Scope(), who.Proved}
	for i := range who.Grants.Len() {
		roots = append(roots, who.Grants.At(i).At)
	}
	if who.ID.IsZero() && !who.Serial.IsZero() { // of a certificate that is no identity: it may be seen, renewed and ended
		if c, err := s.ledger.BySerial(postgres.AsOwner(ctx), who.Serial); err == nil {
			roots = append(roots, c.Scope)
		}
	}
	return roots
}

// officeWall says whose rows the operator listener's requests see: the platform's own callers everything, as their doors let
// them; a tenant's, who may be there to enrol or to renew, what they see on the service listener.
func (s *Server) officeWall(ctx context.Context, who identity.Caller, path string) context.Context {
	if of := who.ID.Scope(); !who.Operator && !of.IsZero() && !of.IsPlatform() {
		return s.tenantsWall(ctx, who, path)
	}
	return postgres.AsOwner(ctx)
}

// ownersWork is what the public and the private listener do.
func ownersWork(ctx context.Context, _ identity.Caller, _ string) context.Context {
	return postgres.AsOwner(ctx)
}

// admitted lets a request see the scope that its caller proved to be of only in the course of it.
func (s *Server) admitted(ctx context.Context, scope identity.Scope) {
	scopes, above := s.scopes.Wall(scope)
	postgres.Widen(ctx, scopes, above)
}

// admit asks after a caller's certificate. Whether it was revoked is for us to know, before it is known what the caller sees.
func (s *Server) admit(ctx context.Context, who identity.Caller) error {
	return s.standing.Admit(postgres.AsOwner(ctx), who)
}
