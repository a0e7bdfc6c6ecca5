package ca

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"codeberg.org/dataverket/segl/internal/access"
	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/policy"
)

// Profiles are rows, each a Spec that one scope declared under a name, and rows are never changed: a change is the next revision. A
// reader takes all of them at once, so every certificate is wholly of one set of rules, and the fact of its issuance says which
// (Profile.version). A replica that has not heard of a change yet goes on with the set before, and says so by the same fact.

// A ProfileRow is a change of one profile in one scope.
type ProfileRow struct {
	Revision int // 1, 2, 3 …, over all profiles and scopes
	Scope    identity.Scope
	Name     string
	Spec     []byte // what ParseSpec reads
	At       time.Time
	Actor    string // who made it
}

// Founded is the last of the revisions that a new ledger begins with. What is issued by those alone names none.
const Founded = 5

// version is what the fact of an issuance says of the profile: nothing while the rules are those that a new ledger has.
func (p *Profile) version() string {
	if p.Revision <= Founded {
		return ""
	}
	return fmt.Sprintf("profile %s, revision %d", p.Name, p.Revision)
}

// A profileSet is every profile as it is after one revision.
type profileSet struct {
	revision int
	all      map[identity.Scope]map[string]*Profile   // where one is declared
	rows     map[identity.Scope]map[string]ProfileRow // the newest of each
}

// compileProfiles makes a set of rows in the order of their revisions. A row that this program cannot read leaves that profile
// shut there and below: it may forbid what is allowed above. A row that is missing is an error.
func compileProfiles(rows []ProfileRow) (*profileSet, error) {
	s := &profileSet{all: map[identity.Scope]map[string]*Profile{}, rows: map[identity.Scope]map[string]ProfileRow{}}
	for i, row := range rows {
		if row.Revision != i+1 {
			return nil, fmt.Errorf("reading profiles: revision %d is not there: rows were taken away; restore them from a backup", i+1)
		}
		if s.rows[row.Scope] == nil {
			s.rows[row.Scope] = map[string]ProfileRow{}
		}
		s.rows[row.Scope][row.Name], s.revision = row, row.Revision
	}
	if len(s.rows[identity.Platform]) == 0 {
		return nil, errors.New("reading profiles: there is none: rows were taken away; restore them from a backup")
	}
	scopes := slices.SortedFunc(maps.Keys(s.rows), func(a, b identity.Scope) int { return depthOf(a) - depthOf(b) })
	for _, scope := range scopes {
		s.all[scope] = map[string]*Profile{}
		for name, row := range s.rows[scope] {
			s.all[scope][name] = s.compile(row)
		}
	}
	return s, nil
}

// depthOf is how far below the platform a scope is.
func depthOf(s identity.Scope) int {
	if s.IsPlatform() {
		return 0
	}
	return 1 + strings.Count(s.String(), "/")
}

// compile makes the profile that a row declares, upon what the scopes above declared.
func (s *profileSet) compile(row ProfileRow) *Profile {
	shut := func(err error) *Profile { return &Profile{Name: row.Name, Revision: row.Revision, broken: err} }
	spec, err := ParseSpec(row.Spec)
	if err != nil {
		return shut(err)
	}
	var p *Profile
	if row.Scope.IsPlatform() {
		p, err = spec.profile(row.Name)
	} else if above, ok := s.above(row.Scope, row.Name); !ok {
		err = &policy.Refusal{What: fmt.Sprintf("profile %.50q in %s", row.Name, row.Scope), Rule: "a scope narrows what is declared above", Remedy: "declare it for the platform first"}
	} else if above.broken != nil {
		err = above.broken
	} else {
		p, err = spec.narrow(above)
		row.Revision = max(row.Revision, above.Revision)
	}
	if err != nil {
		return shut(err)
	}
	p.Revision = row.Revision
	return p
}

// above finds the profile that holds above scope.
func (s *profileSet) above(scope identity.Scope, name string) (*Profile, bool) {
	if scope.IsPlatform() {
		return nil, false
	}
	up, ok := scope.Parent()
	if !ok {
		up = identity.Platform
	}
	return s.in(up, name)
}

// in finds the profile that holds in scope: the nearest declared.
func (s *profileSet) in(scope identity.Scope, name string) (*Profile, bool) {
	if len(s.all) > 1 { // somebody narrows something
		for at, ok := scope, true; ok; at, ok = at.Parent() {
			if p, ok := s.all[at][name]; ok {
				return p, true
			}
		}
	}
	p, ok := s.all[identity.Platform][name]
	return p, ok
}

// with is s after one more row.
func (s *profileSet) with(row ProfileRow) (*profileSet, error) {
	var rows []ProfileRow
	for _, named := range s.rows {
		for _, r := range named {
			if r.Scope != row.Scope || r.Name != row.Name {
				rows = append(rows, r)
			}
		}
	}
	rows = append(rows, row)
	slices.SortFunc(rows, func(a, b ProfileRow) int { return a.Revision - b.Revision })
	revision := row.Revision
	for i := range rows {
		rows[i].Revision = i + 1
	}
	next, err := compileProfiles(rows)
	if err == nil {
		next.revision = revision
	}
	return next, err
}

// Profile returns the profile called name as it holds in scope, or a refusal that lists those there are.
func (a *CA) Profile(scope identity.Scope, name string) (*Profile, error) {
	return a.authorities.Load().profile(scope, name)
}

func (s *authorities) profile(scope identity.Scope, name string) (*Profile, error) {
	p, ok := s.profiles.in(scope, name)
	if !ok {
		return nil, &policy.Refusal{What: fmt.Sprintf("profile %.40q", name), Rule: "the list of profiles", Remedy: fmt.Sprintf("choose one of %v", s.profiles.names())}
	}
	return p, nil
}

// ProfileNames returns the names of the profiles that were ever declared: certificates of a withdrawn one are still there.
func (a *CA) ProfileNames() []string { return a.authorities.Load().profiles.names() }

func (s *profileSet) names() []string { return slices.Sorted(maps.Keys(s.all[identity.Platform])) }

// Profiles returns the profiles as they hold in scope, by name.
func (a *CA) Profiles(scope identity.Scope) []*Profile {
	set := a.authorities.Load().profiles
	var out []*Profile
	for _, name := range set.names() {
		if p, ok := set.in(scope, name); ok {
			out = append(out, p)
		}
	}
	return out
}

// A Declaration is what a scope itself says of a profile.
type Declaration struct {
	Spec
	Revision int // 0: nothing
	At       time.Time
	Actor    string
}

// Declared returns what scope itself says of a profile, the zero Declaration being nothing.
func (a *CA) Declared(scope identity.Scope, name string) (Declaration, error) {
	row, ok := a.authorities.Load().profiles.rows[scope][name]
	if !ok {
		return Declaration{}, nil
	}
	spec, err := ParseSpec(row.Spec)
	return Declaration{Spec: spec, Revision: row.Revision, At: row.At, Actor: row.Actor}, err
}

// A ProfileChange asks that scope declares spec under a name from now on.
type ProfileChange struct {
	Scope identity.Scope
	Name  string
	Spec  Spec
	// After is the revision of the declaration that this one was made from; 0 where there was none; negative: whatever there is.
	After int
}

// changeTries bounds how often a change is judged again because another was faster.
const changeTries = 5

// SetProfile makes a change, from the next certificate on. Before it is durable a certificate of every kind of key is made by it
// and linted. ErrConflict: somebody else has changed the profile since After. Operators alone may.
func (a *CA) SetProfile(ctx context.Context, who identity.Caller, c ProfileChange) (*Profile, error) {
	fact := audit.Fact{At: a.Now(), Who: who, Scope: c.Scope, What: audit.ProfileChanged, Subject: c.Name, Why: string(c.Spec.JSON())}
	for range changeTries {
		row, err := a.judge(ctx, who, c)
		if r, ok := errors.AsType[*policy.Refusal](err); ok {
			return nil, a.refuse(ctx, audit.Fact{At: fact.At, Who: who, Scope: c.Scope, What: fact.What, Subject: c.Name}, r.Rule, err)
		}
		if err != nil {
			return nil, err
		}
		err = a.Ledger.AddProfile(ctx, row, fact)
		if errors.Is(err, ErrConflict) { // another change has the number
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("changing profile %s: %w", c.Name, err)
		}
		if err := a.Reload(ctx); err != nil {
			return nil, fmt.Errorf("profile %s was changed, and could not be read again: %w", c.Name, err)
		}
		return a.Profile(c.Scope, c.Name)
	}
	return nil, fmt.Errorf("changing profile %s: %w: others change profiles all the time", c.Name, ErrUnavailable)
}

// judge reads the profiles as they are, and returns the row that c would be, refusing what must not be.
func (a *CA) judge(ctx context.Context, who identity.Caller, c ProfileChange) (ProfileRow, error) {
	if err := access.Check(who, access.ChangeScopes, access.Above(c.Scope)); err != nil {
		return ProfileRow{}, err
	}
	if err := CheckProfileName(c.Name); err != nil {
		return ProfileRow{}, err
	}
	if err := a.Reload(ctx); err != nil {
		return ProfileRow{}, err
	}
	set := a.authorities.Load()
	if had := set.profiles.rows[c.Scope][c.Name].Revision; c.After >= 0 && had != c.After {
		return ProfileRow{}, fmt.Errorf("%w: %s declares revision %d of profile %s, not %d", ErrConflict, c.Scope, had, c.Name, c.After)
	}
	if !c.Scope.IsPlatform() {
		if _, err := a.Scopes.Chain(ctx, c.Scope); errors.Is(err, ErrNotFound) {
			return ProfileRow{}, err
		}
	}
	row := ProfileRow{Revision: set.profiles.revision + 1, Scope: c.Scope, Name: c.Name, Spec: c.Spec.JSON(), At: a.Now(), Actor: who.Actor}
	_, err := a.after(set, row)
	return row, err
}

// after returns the profiles as they are once row is there, each of them linted that it touches.
func (a *CA) after(set *authorities, row ProfileRow) (*profileSet, error) {
	next, err := set.profiles.with(row)
	if err != nil {
		return nil, err
	}
	for scope, named := range next.all {
		p := named[row.Name]
		if p == nil || scope != row.Scope && !row.Scope.IsPlatform() && !row.Scope.Contains(scope) {
			continue
		}
		if p.broken == nil {
			p.broken = a.proves(set.all, p)
		}
		if p.broken != nil {
			return nil, p.broken
		}
	}
	return next, nil
}
