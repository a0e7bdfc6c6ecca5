package tenancy

import (
	"context"
	"slices"
	"time"

	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/policy"
)

// An Impact is what a change of rights would do to the certificates that are there.
type Impact struct {
	Live     int  // valid ones that were looked at
	Refused  int  // of these: how many would not be renewed
	Complete bool // all were looked at that the change could touch
	First    []Affected
}

// Affected is a certificate that would not be renewed, and by which rule.
type Affected struct {
	Serial       cert.Serial
	Scope        identity.Scope
	Names        []cert.Name
	NotAfter     time.Time
	Rule, Remedy string
}

// A Walker shows a judge the valid certificates of a scope and below, bounded in number and in time, and tells how many it
// refused.
type Walker func(ctx context.Context, at identity.Scope, judge func(at identity.Scope, names []cert.Name) error) (Impact, error)

// PreviewRights says what SetRights would do, and changes nothing. What SetRights would refuse it refuses too.
func (r *Registry) PreviewRights(ctx context.Context, who identity.Caller, s identity.Scope, rights policy.Rights, walk Walker) (Impact, error) {
	if err := r.changeable(who, s, rights); err != nil {
		return Impact{}, err
	}
	next, err := policy.Compile(s, rights)
	if err != nil {
		return Impact{}, err
	}
	chains := r.all.Load().chains
	return walk(ctx, s, func(at identity.Scope, names []cert.Name) error {
		chain := slices.Clone(chains[at])
		for i := range chain {
			if chain[i:i+1].Scope() == s {
				chain[i] = next
			}
		}
		return chain.Allow(names...)
	})
}
