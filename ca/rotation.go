package ca

import (
	"context"
	"errors"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strings"
	"time"

	"codeberg.org/dataverket/segl/ca/incident"
	"codeberg.org/dataverket/segl/ca/lint"
	"codeberg.org/dataverket/segl/internal/access"
	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/policy"
	"codeberg.org/dataverket/segl/internal/uid"
	"codeberg.org/dataverket/segl/kms"
)

// An AuthorityState is where an authority is in its life.
//
//	prepared ── activate ──► active ── another is activated ──► retiring ── all it signed has expired ──► retired
//	    └──────────────────────────── retire: given up ─────────────────────────────────────────────────────▲
//
// A prepared one is published, with its lists and its OCSP responder, and signs nothing that was asked for. One is active for
// a purpose. What a retiring one signed is renewed over a spread, by its windows; its lists and answers go on. At any time
// its own certificate may be revoked, for ever.
type AuthorityState string

// The states.
const (
	Prepared         AuthorityState = "prepared"
	Active           AuthorityState = "active"
	Retiring         AuthorityState = "retiring"
	Retired          AuthorityState = "retired"
	RevokedAuthority AuthorityState = "revoked"
)

// state computes where an authority is, and since when.
func (a *CA) state(ctx context.Context, auth *Authority, row AuthorityRow) (AuthorityState, time.Time, error) {
	if serial, ok := auth.Serial(); ok {
		switch rec, err := a.Ledger.BySerial(ctx, serial); {
		case errors.Is(err, ErrNotFound): // founded before its epoch was kept, or archived since
		case err != nil:
			return "", time.Time{}, fmt.Errorf("reading whether it is revoked: %w", err)
		case rec.Revoked != nil:
			return RevokedAuthority, rec.Revoked.At, nil
		}
	}
	switch {
	case !row.RetiredAt.IsZero():
		return Retired, row.RetiredAt, nil
	case !row.RetiringAt.IsZero():
		return Retiring, row.RetiringAt, nil
	case !row.ActivatedAt.IsZero():
		return Active, row.ActivatedAt, nil
	}
	return Prepared, row.CreatedAt, nil
}

// Reload reads the authorities again: another replica has changed one.
func (a *CA) Reload(ctx context.Context) error { return a.Load(ctx, a.authorities.Load().keyring) }

// Bounds of a rotation.
const (
	// DefaultSpread is the time over which what a retiring authority signed is renewed.
	DefaultSpread = 7 * day
	// MaxSpread is the longest: nothing but an authority lives longer.
	MaxSpread = 90 * day
	// published is how long a root has to be in the bundle before it signs: whoever keeps the bundle has fetched it since.
	published = 10 * time.Minute
)

var authorityName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// Prepare makes an authority that is published and does not sign yet. An empty name gives it the next number of its purpose.
// Asking again for the same gives the same. It takes access.ChangeAuthorities at the platform to prepare, activate, retire and revoke.
func (a *CA) Prepare(ctx context.Context, who identity.Caller, p Purpose, name string) (*Authority, error) {
	return a.PrepareFor(ctx, who, Preparation{Purpose: p, Name: name})
}

// A Preparation asks for an authority.
type Preparation struct {
	Purpose Purpose
	Name    string // empty: the next of its purpose
	// Scope is for whom it signs, that scope and below; zero is everybody. A tenant's own is constrained to Permitted, which it must
	// have: whoever trusts this root trusts it for no name more.
	Scope     identity.Scope
	Algorithm kms.Algorithm // of its key; empty is P256
	Permitted *lint.Permitted
}

func (p Preparation) algorithm() kms.Algorithm {
	if p.Algorithm == "" {
		return kms.P256
	}
	return p.Algorithm
}

// own reports whether it is to be a tenant's own.
func (p Preparation) own() bool { return !p.Scope.IsZero() && !p.Scope.IsPlatform() }

// PrepareFor is Prepare with more to say.
func (a *CA) PrepareFor(ctx context.Context, who identity.Caller, ask Preparation) (*Authority, error) {
	p, name := ask.Purpose, ask.Name
	fact := audit.Fact{At: a.Now(), Who: who, Scope: identity.Platform, What: audit.AuthorityMade, Subject: name}
	set := a.authorities.Load()
	if name == "" {
		name = set.next(p, a.Site)
		fact.Subject = name
	}
	if err := preparable(who, p, name); err != nil {
		return nil, a.refuse(ctx, fact, err.Rule, err)
	}
	if err := a.bounded(ctx, &ask); err != nil {
		if r, ok := errors.AsType[*policy.Refusal](err); ok {
			return nil, a.refuse(ctx, fact, r.Rule, err)
		}
		return nil, err
	}
	if had, ok := set.byName[name]; ok {
		if had.Purpose != p || had.State != Prepared || ask.own() != !had.Scope.IsPlatform() || ask.own() && had.Scope != ask.Scope {
			return nil, a.refuse(ctx, fact, "a name is one authority", fmt.Errorf("%w: authority %s is there, for %s, and is %s", ErrConflict, name, had.Purpose, had.State))
		}
		return had, nil
	}
	if a.Fence != nil {
		if why := a.Fence(); why != nil { // its certificate would be one that the ledger may forget
			return nil, fmt.Errorf("preparing authority %s: %w: %w", name, ErrFenced, why)
		}
	}
	row := AuthorityRow{Name: name, Purpose: p, Scope: ask.Scope, Site: a.Site, CreatedAt: fact.At}
	if err := a.establish(ctx, who, set.keyring, row, ask); err != nil {
		if r, ok := errors.AsType[*policy.Refusal](err); ok {
			return nil, a.refuse(ctx, fact, r.Rule, err)
		}
		return nil, fmt.Errorf("preparing authority %s: %w", name, err)
	}
	if err := a.Reload(ctx); err != nil {
		return nil, err
	}
	return a.Authority(name)
}

// bounded refuses a tenant's authority without bounds, and bounds without a tenant.
func (a *CA) bounded(ctx context.Context, ask *Preparation) error {
	refuse := func(what, remedy string) error {
		return &policy.Refusal{What: what, Rule: "a tenant's own authority is constrained (RFC 5280 §4.2.1.10)", Remedy: remedy}
	}
	if _, err := kms.ParseAlgorithm(string(ask.Algorithm)); err != nil {
		return &policy.Refusal{What: "that kind of key", Rule: "the list of algorithms", Remedy: fmt.Sprintf("choose one of %v", kms.Algorithms())}
	}
	switch {
	case !ask.own() && ask.Permitted == nil:
		return nil
	case !ask.own():
		return refuse("constraints of everybody's authority", "name the scope")
	case ask.Purpose == Root:
		return refuse("a root of "+ask.Scope.String(), "roots are everybody's: prepare servers, workloads or databases for it")
	case ask.Permitted == nil || len(ask.Permitted.DNS)+len(ask.Permitted.IP)+len(ask.Permitted.URI) == 0:
		return refuse("an authority of "+ask.Scope.String()+" for any name", "say which names it may certify")
	}
	for _, d := range ask.Permitted.DNS {
		if n, err := cert.ParseDNS(d); err != nil || n.Value() != d || strings.HasPrefix(d, "*") {
			return refuse(fmt.Sprintf("the name %.80q", d), "give a name; it stands for those below it too")
		}
	}
	for _, u := range ask.Permitted.URI {
		if u != a.TrustDomain {
			return refuse(fmt.Sprintf("identities of %.80q", u), "identities here are of "+a.TrustDomain)
		}
	}
	if _, err := a.Scopes.Chain(ctx, ask.Scope); err != nil {
		return fmt.Errorf("finding %s: %w", ask.Scope, err)
	}
	return nil
}

// agreed asks whether a second operator has to confirm something about an authority, and did.
func (a *CA) agreed(ctx context.Context, who identity.Caller, k access.Kind, terms string) error {
	return a.Guard.Pass(ctx, who, access.Request{Kind: k, Scope: identity.Platform, Terms: terms, Count: math.MaxInt})
}

func preparable(who identity.Caller, p Purpose, name string) *policy.Refusal {
	if r := access.Judge(who, access.ChangeAuthorities, identity.Platform); r != nil {
		return r
	}
	switch {
	case p != Root && !slices.Contains(Purposes, p):
		return &policy.Refusal{What: fmt.Sprintf("purpose %.40q", string(p)), Rule: "the list of purposes", Remedy: fmt.Sprintf("choose one of %v", append([]Purpose{Root}, Purposes...))}
	case !authorityName.MatchString(name):
		return &policy.Refusal{What: fmt.Sprintf("name %.70q", name), Rule: "the form of authorities' names", Remedy: "use 1 to 63 of a-z, 0-9 and hyphen, neither first nor last a hyphen"}
	}
	return nil
}

// next is the name that the next authority of a purpose gets.
func (s *authorities) next(p Purpose, site byte) string {
	for n := 1; ; n++ {
		name := fmt.Sprintf("%s-%d-%d", p, site, n)
		if _, taken := s.byName[name]; !taken {
			return name
		}
	}
}

// Activate lets a prepared authority sign from now on. The one that signed for its purpose retires, and the windows of what
// that one signed move over spread, zero being DefaultSpread. Requests under way are finished by whichever they began with.
func (a *CA) Activate(ctx context.Context, who identity.Caller, name string, spread time.Duration) (*Authority, error) {
	now := a.Now()
	fact := audit.Fact{At: now, Who: who, Scope: identity.Platform, What: audit.AuthorityActivated, Subject: name}
	if spread == 0 {
		spread = DefaultSpread
	}
	auth, err := a.current(ctx, name)
	if err != nil {
		return nil, err
	}
	if err := activatable(who, auth, spread, now); err != nil {
		return nil, a.refuse(ctx, fact, err.Rule, err)
	}
	if a.Published != nil {
		if why := a.Published(ctx, auth); why != nil {
			r := &policy.Refusal{What: "activating " + name, Rule: "an authority is published before it signs", Remedy: why.Error() + ": try again shortly"}
			return nil, a.refuse(ctx, fact, r.Rule, r)
		}
	}
	if err := a.agreed(ctx, who, access.ActivateAuthority, fmt.Sprintf("activate authority %s, spread %s", name, spread)); err != nil {
		return nil, err
	}
	v := Activation{
		Name: name, At: now, Fact: fact, Spread: spread, Incident: uid.New(uid.Incident, a.Site, now),
		Upto: uid.Floor(uid.Certificate, a.Site, now.Add(time.Second)), Ends: now.Add(longest(auth.Purpose)),
	}
	if err := a.Ledger.Activate(ctx, v); err != nil {
		return nil, a.conflicting(ctx, fact, fmt.Errorf("activating authority %s: %w", name, err))
	}
	return a.changed(ctx, name)
}

// conflicting records as refused what the ledger found in another state than it was.
func (a *CA) conflicting(ctx context.Context, f audit.Fact, err error) error {
	if errors.Is(err, ErrConflict) {
		return a.refuse(ctx, f, "an authority's life goes one way", err)
	}
	return err
}

// current returns the authority called name as the ledger has it now.
func (a *CA) current(ctx context.Context, name string) (*Authority, error) {
	if err := a.Reload(ctx); err != nil {
		return nil, err
	}
	return a.Authority(name)
}

// changed is what became of an authority, in this replica too.
func (a *CA) changed(ctx context.Context, name string) (*Authority, error) {
	if err := a.Reload(ctx); err != nil {
		return nil, fmt.Errorf("authority %s was changed, and could not be read again: %w", name, err)
	}
	return a.Authority(name)
}

func activatable(who identity.Caller, auth *Authority, spread time.Duration, now time.Time) *policy.Refusal {
	if r := access.Judge(who, access.ChangeAuthorities, identity.Platform); r != nil {
		return r
	}
	root := auth
	if auth.parent != nil {
		root = auth.parent
	}
	since := now.Sub(root.Since)
	switch {
	case auth.State != Prepared:
		return &policy.Refusal{What: "activating " + auth.Name, Rule: "an authority's life goes one way", Remedy: "it is " + string(auth.State) + ": prepare another"}
	case root.State == Retired:
		return &policy.Refusal{What: "activating " + auth.Name, Rule: "what signs is below a root that is published", Remedy: "root " + root.Name + " is retired: prepare another below the one that is active"}
	case root.State == Prepared && since < published: // an offline one has authorities below it from then on
		return &policy.Refusal{
			What: "activating " + auth.Name, Rule: "a root is published before it signs",
			Remedy: fmt.Sprintf("wait %s: root %s has to reach who keeps the bundle", (published - since).Round(time.Second), root.Name),
		}
	case spread < time.Minute || spread > MaxSpread:
		return &policy.Refusal{What: "a spread of " + spread.String(), Rule: "the bounds of a rotation", Remedy: "ask for " + time.Minute.String() + " to " + MaxSpread.String()}
	}
	return nil
}

// longest is the longest life of what an authority of a purpose signs.
func longest(p Purpose) time.Duration {
	if p == Root {
		return subordinate.Max
	}
	return LongestLife // a profile may have allowed it, some revision ago
}

// Retire ends an authority: a prepared one, which is given up, or a retiring one of whose certificates none is valid any
// more. It leaves the bundle, and stays known.
func (a *CA) Retire(ctx context.Context, who identity.Caller, name string) (*Authority, error) {
	now := a.Now()
	fact := audit.Fact{At: now, Who: who, Scope: identity.Platform, What: audit.AuthorityRetired, Subject: name}
	auth, err := a.current(ctx, name)
	if err != nil {
		return nil, err
	}
	if err := retirable(who, auth); err != nil {
		return nil, a.refuse(ctx, fact, err.Rule, err)
	}
	if below := a.authorities.Load().below(auth, now); below != nil { // what an offline root certified, its ledger does not say
		r := &policy.Refusal{
			What: "retiring root " + name, Rule: "authorities hang on it",
			Remedy: "retire " + below.Name + " first, which is " + string(below.State) + ": without the root in the bundle nobody trusts what it signs",
		}
		return nil, a.refuse(ctx, fact, r.Rule, r)
	}
	alive, err := a.Ledger.Alive(ctx, auth.ID, now)
	if err != nil {
		return nil, fmt.Errorf("looking for valid certificates of authority %s: %w", name, err)
	}
	if alive && auth.State == Retiring {
		r := &policy.Refusal{
			What: "retiring " + name, Rule: "certificates that it signed are valid",
			Remedy: "wait until they are renewed and have expired, or end them: segl incident create --authority " + name + " --deadline …",
		}
		return nil, a.refuse(ctx, fact, r.Rule, r)
	}
	if err := a.agreed(ctx, who, access.RetireAuthority, "retire authority "+name); err != nil {
		return nil, err
	}
	if err := a.Ledger.Retire(ctx, Retirement{Name: name, At: now, Fact: fact}); err != nil {
		return nil, a.conflicting(ctx, fact, fmt.Errorf("retiring authority %s: %w", name, err))
	}
	return a.changed(ctx, name)
}

func retirable(who identity.Caller, auth *Authority) *policy.Refusal {
	if r := access.Judge(who, access.ChangeAuthorities, identity.Platform); r != nil {
		return r
	}
	switch {
	case auth.State == Active:
		return &policy.Refusal{What: "retiring " + auth.Name, Rule: "somebody signs for " + string(auth.Purpose), Remedy: "prepare another and activate it: this one then retires by itself"}
	case auth.State == Retired:
		return &policy.Refusal{What: "retiring " + auth.Name, Rule: "an authority's life goes one way", Remedy: "it is retired already"}
	}
	return nil
}

// RevokeAuthority revokes everything that an authority signed, and its own certificate, for ever. It signs no more: another
// is active in its place, or it never was. Asking again goes on where the first time was cut short.
func (a *CA) RevokeAuthority(ctx context.Context, who identity.Caller, name string, why cert.Reason) (*Authority, error) {
	now := a.Now()
	fact := audit.Fact{At: now, Who: who, Scope: identity.Platform, What: audit.Revoke, Subject: name, Why: why.String()}
	auth, err := a.current(ctx, name)
	if err != nil {
		return nil, err
	}
	if err := revocable(who, auth); err != nil {
		return nil, a.refuse(ctx, fact, err.Rule, err)
	}
	if err := a.agreed(ctx, who, access.RevokeMany, fmt.Sprintf("revoke authority %s and everything it signed, %s", name, why)); err != nil {
		return nil, err
	}
	everything := incident.Ask{
		ID: incident.Origin(a.Site, identity.System("authorities"), "revoke "+name), Choice: incident.Choice{Authority: name},
		Why: "its authority is revoked", Reason: why, Everything: true,
	}.Incident(incident.Maker{Site: a.Site, Actor: who.Actor, Longest: longest(auth.Purpose)}, now)
	fact.What = audit.IncidentMade
	if err := a.Ledger.Record(ctx, everything, fact); err != nil {
		return nil, fmt.Errorf("revoking what authority %s signed: %w", name, err)
	}
	serial, _ := auth.Serial()
	if _, err := a.Revoke(ctx, who, serial, why); err != nil && !errors.Is(err, ErrAlreadyRevoked) {
		return nil, err
	}
	return a.changed(ctx, name)
}

func revocable(who identity.Caller, auth *Authority) *policy.Refusal {
	if r := access.Judge(who, access.ChangeAuthorities, identity.Platform); r != nil {
		return r
	}
	_, issued := auth.Serial()
	switch {
	case !issued && auth.parent != nil:
		return &policy.Refusal{
			What: "revoking " + auth.Name, Rule: "its root is offline, and so is the root's list",
			Remedy: "segl ca root-list --revoke where the root's key is, and import the list; end what it signed: segl incident create --authority " + auth.Name + " --deadline …",
		}
	case !issued:
		return &policy.Refusal{
			What: "revoking root " + auth.Name, Rule: "no list can say that its own signer is not to be trusted (RFC 5280 §3.3)",
			Remedy: "take it out of every trust store, and retire it",
		}
	case auth.State == Active:
		return &policy.Refusal{What: "revoking " + auth.Name, Rule: "somebody signs for " + string(auth.Purpose), Remedy: "prepare another, activate it, and renew your own certificate first"}
	}
	return nil
}
