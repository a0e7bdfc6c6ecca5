package ca

import (
	"fmt"
	"slices"
	"time"

	"codeberg.org/dataverket/segl/ca/tbs"
	"codeberg.org/dataverket/segl/internal/policy"
)

// A Purpose is what an authority is for. An authority signs the profiles of its purpose and its own OCSP responders.
type Purpose string

// The purposes.
const (
	Root      Purpose = "root"
	Servers   Purpose = "servers"   // TLS servers, by ACME or directly
	Workloads Purpose = "workloads" // SPIFFE identities
	Databases Purpose = "databases" // database servers and their clients
)

// Purposes are those that get an authority at first start, below the root.
var Purposes = []Purpose{Servers, Workloads, Databases}

// A Profile is what a certificate may be.
type Profile struct {
	Name    string
	Purpose Purpose
	Default time.Duration // life when none is asked
	Max     time.Duration // longest life
	// Hosts says whether DNS and IP names are required, allowed or refused; Identity the same for the SPIFFE ID.
	Hosts, Identity Presence
	Role            bool // carries a database role as its common name
	usage           tbs.Usage
}

// Presence says how a kind of name stands to a profile.
type Presence uint8

// The three ways.
const (
	Refused Presence = iota
	Allowed
	Required
)

const (
	day  = 24 * time.Hour
	year = 365 * day
)

// MinLife is the shortest life of a certificate.
const MinLife = 10 * time.Second

var profiles = []*Profile{
	{Name: "server", Purpose: Servers, Default: 30 * day, Max: 90 * day, Hosts: Required, usage: tbs.Server},
	{Name: "workload", Purpose: Workloads, Default: day, Max: 7 * day, Hosts: Allowed, Identity: Required, usage: tbs.ServerAndClient},
	{Name: "client", Purpose: Workloads, Default: day, Max: 7 * day, Identity: Required, usage: tbs.Client},
	{Name: "database-server", Purpose: Databases, Default: 30 * day, Max: 90 * day, Hosts: Required, usage: tbs.Server},
	{Name: "database-client", Purpose: Databases, Default: day, Max: 7 * day, Identity: Required, Role: true, usage: tbs.Client},
}

// Profiles that nobody may ask for: the service makes them for itself.
var (
	// responder is a delegated OCSP responder (RFC 6960 §4.2.2.2), of every purpose.
	responder = &Profile{Name: "ocsp-responder", Default: 7 * day, Max: 7 * day, usage: tbs.OCSPResponder}
	// subordinate is an issuing authority below the root; anchor is the root itself.
	subordinate = &Profile{Name: "authority", Purpose: Root, Default: 5 * year, Max: 5 * year, usage: tbs.Authority}
	anchor      = &Profile{Name: "root", Purpose: Root, Default: 20 * year, Max: 20 * year, usage: tbs.Authority}
)

// Profiles returns the names of the profiles that may be asked for.
func Profiles() []string {
	var names []string
	for _, p := range profiles {
		names = append(names, p.Name)
	}
	return names
}

// ProfileByName returns the profile called name, or a refusal that lists those there are.
func ProfileByName(name string) (*Profile, error) {
	i := slices.IndexFunc(profiles, func(p *Profile) bool { return p.Name == name })
	if i < 0 {
		return nil, &policy.Refusal{What: fmt.Sprintf("profile %.40q", name), Rule: "the list of profiles", Remedy: fmt.Sprintf("choose one of %v", Profiles())}
	}
	return profiles[i], nil
}

// backdate is how far before now a certificate of the given life begins, for holders and peers whose clocks lag.
func backdate(life time.Duration) time.Duration {
	return min(time.Minute, life/10).Truncate(time.Second)
}

// life settles how long a certificate lives: what was asked, or the profile's default.
func (p *Profile) life(asked time.Duration) (time.Duration, error) {
	switch {
	case asked == 0:
		return p.Default, nil
	case asked < MinLife:
		return 0, &policy.Refusal{What: "a life of " + asked.String(), Rule: "the shortest life", Remedy: "ask for " + MinLife.String() + " or more"}
	case asked > p.Max:
		return 0, &policy.Refusal{What: "a life of " + asked.String(), Rule: "profile " + p.Name, Remedy: "ask for at most " + p.Max.String()}
	}
	return asked.Truncate(time.Second), nil
}

// Backdating is how far before its issuance a certificate may be asked to begin: what was ordered with a date is issued a
// while later.
const Backdating = time.Hour

// span settles how long a certificate lives whose first or last second was asked for, or neither. It may begin as early as
// any does, and may not reach further from now than the longest life: lists and the ledger keep what is that old.
func (p *Profile) span(req Request, now time.Time) (time.Duration, error) {
	if req.NotBefore.IsZero() && req.NotAfter.IsZero() {
		return p.life(req.Life)
	}
	refuse := func(what, remedy string) (time.Duration, error) {
		return 0, &policy.Refusal{What: what, Rule: "profile " + p.Name, Remedy: remedy}
	}
	from, to := req.NotBefore.Truncate(time.Second), req.NotAfter.Truncate(time.Second)
	earliest := now.Add(-Backdating).Truncate(time.Second)
	latest := now.Add(p.Max - backdate(p.Max)).Truncate(time.Second)
	switch {
	case req.Life != 0:
		return refuse("a life beside a first or last second", "ask for one of them")
	case !req.NotBefore.IsZero() && from.Before(earliest):
		return refuse("a certificate from "+from.UTC().Format(time.RFC3339), "it may begin "+earliest.UTC().Format(time.RFC3339)+" or later; leave it out to begin now")
	case req.NotBefore.IsZero():
		from = now.Add(-backdate(p.Default)).Truncate(time.Second)
	case req.NotAfter.IsZero():
		to = from.Add(min(p.Default, latest.Sub(from)) - time.Second)
	}
	life := to.Sub(from) + time.Second
	switch {
	case to.After(latest):
		return refuse("a certificate until "+to.UTC().Format(time.RFC3339), "it may end "+latest.UTC().Format(time.RFC3339)+" at the latest")
	case life < MinLife, life > p.Max, to.Before(now.Add(MinLife)):
		return refuse("a life of "+life.String(), "ask for "+MinLife.String()+" to "+p.Max.String())
	}
	return life, nil
}

// LongestLife is the longest of what may be asked for.
const LongestLife = 90 * day
