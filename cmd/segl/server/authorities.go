package server

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/internal/duty"
)

// Authorities says how long authorities sign, and what they claim.
type Authorities struct {
	// RotateAfter is how long an issuing authority signs before another does in its place; what it signed is renewed then, by
	// its windows. Default: none is rotated by itself.
	RotateAfter time.Duration `yaml:"rotate_after"`
	// PublishFor is how long its successor is in the bundle before it signs. Default 24h.
	PublishFor time.Duration `yaml:"publish_for"`
	// Spread is over how long what it signed is renewed. Default 168h.
	Spread time.Duration `yaml:"spread"`
	// PolicyArc is an object identifier of yours below which certificates claim a policy each: 1 for servers, 2 for workloads, 3
	// for databases (RFC 5280 §4.2.1.4), from the authorities made from then on. Default: none is claimed.
	PolicyArc string `yaml:"policy_arc"`
}

func (a *Authorities) check() error {
	orElse(&a.PublishFor, 24*time.Hour)
	orElse(&a.Spread, ca.DefaultSpread)
	switch {
	case a.RotateAfter != 0 && a.RotateAfter < 24*time.Hour:
		return fmt.Errorf("authorities.rotate_after: %s: want a day or more", a.RotateAfter)
	case a.RotateAfter != 0 && (a.PublishFor < 0 || a.PublishFor >= a.RotateAfter):
		return fmt.Errorf("authorities.publish_for: %s: want less than rotate_after", a.PublishFor)
	case a.Spread < time.Minute || a.Spread > ca.MaxSpread:
		return fmt.Errorf("authorities.spread: %s: want %s to %s", a.Spread, time.Minute, ca.MaxSpread)
	}
	_, err := a.policies()
	return err
}

// policies are what certificates of each purpose claim.
func (a *Authorities) policies() (map[ca.Purpose][]x509.OID, error) {
	if a.PolicyArc == "" {
		return nil, nil
	}
	out := map[ca.Purpose][]x509.OID{}
	for i, p := range ca.Purposes {
		id, err := x509.ParseOID(fmt.Sprintf("%s.%d", a.PolicyArc, i+1))
		if err != nil {
			return nil, fmt.Errorf("authorities.policy_arc: %q: want an object identifier, as in 1.3.6.1.4.1.<your number>.1", a.PolicyArc)
		}
		out[p] = []x509.OID{id}
	}
	return out, nil
}

// addRotation makes the duty that follows the schedule, and says of profiles that are shut why they are.
func (s *Server) addRotation() {
	schedule := ca.Schedule{Every: s.cfg.Authorities.RotateAfter, Publish: s.cfg.Authorities.PublishFor, Spread: s.cfg.Authorities.Spread}
	s.duties = append(s.duties, duty.Duty{Name: "rotation", Every: 10 * time.Minute, Once: func(ctx context.Context, _ int64) error {
		if shut := s.ca.Shut(); len(shut) > 0 {
			s.log.Error("profiles shut", "err", errors.Join(shut...))
		}
		return s.ca.Rotate(ctx, schedule)
	}})
}
