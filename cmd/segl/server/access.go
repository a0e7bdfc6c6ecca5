package server

import (
	"context"
	"errors"
	"time"

	"codeberg.org/dataverket/segl/ca/seal"
	"codeberg.org/dataverket/segl/internal/access"
	accessapi "codeberg.org/dataverket/segl/internal/access/api"
	accessstore "codeberg.org/dataverket/segl/internal/access/store"
	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/policy"
)

// DualControl says what a second operator has to confirm. Whoever asks is told the number of the request; another admin of the
// platform confirms it (segl approval approve), and whoever asked asks again.
type DualControl struct {
	// For are the kinds: revoke-many, tenant.delete, authority.activate, authority.retire, gap.accept, platform.widen. Any needs
	// platform.widen too, else one operator could make the second. Default: none.
	For []string `yaml:"for"`
	// RevokeMany is how many certificates one operator may revoke at once, where revoke-many is among the kinds. Default 0.
	RevokeMany int `yaml:"revoke_many"`
	// Within is how long a request waits for its confirmation, and a confirmation to be used. Default 24h.
	Within time.Duration `yaml:"within"`
}

func (d DualControl) rule() access.Rule {
	r := access.Rule{RevokeMany: d.RevokeMany, Within: d.Within}
	if r.Within == 0 {
		r.Within = 24 * time.Hour
	}
	for _, k := range d.For {
		r.For = append(r.For, access.Kind(k))
	}
	return r
}

// makeAdmin lets id do everything. Repeating it changes nothing.
func (s *Server) makeAdmin(ctx context.Context, command string, id identity.ID) error {
	_, err := s.access.Grant(ctx, identity.System(command), access.Binding{
		Role: access.Admin, Scope: identity.Platform, Subject: access.Subject{Identity: id.String()},
	})
	if errors.Is(err, access.ErrExists) {
		return nil
	}
	return err
}

// gapAgreed asks whether a second operator has to confirm that a gap is accepted, and did. Who stands at the machine is nobody
// whom we know, so any admin of the platform is another.
func (s *Server) gapAgreed(ctx context.Context, g seal.Gap) error {
	keeper, err := accessstore.Open(ctx, s.db, s.cfg.DualControl.rule(), s.now)
	if err != nil {
		return err
	}
	return keeper.Guard(ctx, identity.Caller{Actor: "host:accept-gap", Scope: identity.Platform}, access.Request{
		Kind: access.AcceptGap, Scope: identity.Platform, Terms: "accept the gap " + g.Confirmation(),
	})
}

func (s *Server) accessDoor() accessapi.Config {
	return accessapi.Config{Keeper: s.access, Now: s.now, Below: below()}
}

// turnedAway writes down that a route turned somebody away.
func (s *Server) turnedAway(ctx context.Context, who identity.Caller, at identity.Scope, why *policy.Refusal) error {
	return s.ca.TurnedAway(ctx, audit.Fact{Who: who, Scope: at, What: audit.Admit, Subject: why.What}, why.Rule)
}
