package api

import (
	"context"
	"time"

	"codeberg.org/dataverket/segl/credentials"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/policy"
	"codeberg.org/dataverket/segl/internal/web"
)

// A place is the scope of the path. A path without one is the platform's.
type place struct {
	Scope identity.Scope `default:"platform" json:"-" path:"tenant,project,environment"`
}

// Target is a server at which logins are made.
type Target struct {
	Name      string   `json:"name" required:"true"`
	Scope     string   `json:"scope" required:"true"`
	Kind      string   `json:"kind" required:"true"`
	Address   string   `json:"address" required:"true"`
	Authority string   `json:"authority,omitempty" description:"Who vouches for its certificate, in PEM; absent: this service's own roots."`
	Manager   string   `json:"manager" required:"true" description:"As whom this service logs in."`
	Database  string   `json:"database,omitempty"`
	MadeAt    web.Time `json:"made_at" required:"true"`
}

func target(t credentials.Target) Target {
	return Target{string(t.Name), t.Scope.String(), string(t.Kind), t.Address, t.Authority, t.Manager, t.Database, web.Time{Time: t.MadeAt}}
}

// TargetRequest names a server.
type TargetRequest struct {
	place
	Name      string `json:"name" required:"true" maxLength:"63"`
	Kind      string `json:"kind" required:"true" enum:"postgresql,mysql,redis"`
	Address   string `json:"address" required:"true" maxLength:"255" description:"host:port; the host is the name its certificate must have."`
	Authority string `json:"authority,omitempty" maxLength:"65536" description:"Who vouches for its certificate, in PEM; absent: this service's own roots."`
	Manager   string `json:"manager,omitempty" maxLength:"63" description:"As whom this service logs in; segl if absent."`
	Database  string `json:"database,omitempty" maxLength:"63" description:"Of PostgreSQL: where the functions of the manager are; postgres if absent."`
}

func (d *door) addTarget(ctx context.Context, who identity.Caller, in TargetRequest) (Target, error) {
	t, err := d.office.AddTarget(ctx, who, credentials.Target{
		Name: credentials.Label(in.Name), Scope: in.Scope, Kind: credentials.Kind(in.Kind), Address: in.Address, Authority: in.Authority, Manager: in.Manager,
		Database: in.Database,
	})
	return target(t), err
}

// EndTargetRequest names a target.
type EndTargetRequest struct {
	place
	Target string `json:"-" path:"target"`
}

func (d *door) endTarget(ctx context.Context, who identity.Caller, in EndTargetRequest) (web.Nothing, error) {
	return web.Nothing{}, d.office.EndTarget(ctx, who, in.Scope, credentials.Label(in.Target))
}

// PlaceRequest names a scope.
type PlaceRequest struct{ place }

// TargetList is every target there is: they are few, and come on one page.
type TargetList struct {
	Targets []Target `json:"targets" required:"true"`
}

func (d *door) targets(ctx context.Context, who identity.Caller, in PlaceRequest) (TargetList, error) {
	list, err := d.office.Targets(ctx, who, in.Scope)
	out := TargetList{Targets: []Target{}}
	for _, t := range list {
		out.Targets = append(out.Targets, target(t))
	}
	return out, err
}

// Binding says whose identity gets what.
type Binding struct {
	Name        string       `json:"name" required:"true"`
	Scope       string       `json:"scope" required:"true"`
	For         string       `json:"for" required:"true"`
	Target      string       `json:"target,omitempty"`
	TargetScope string       `json:"target_scope,omitempty"`
	Way         string       `json:"way,omitempty"`
	Database    string       `json:"database,omitempty"`
	Group       string       `json:"group,omitempty"`
	Role        string       `json:"role,omitempty"`
	Connections int          `json:"connections,omitempty"`
	Leases      int          `json:"leases,omitempty"`
	Audiences   []string     `json:"audiences,omitempty"`
	Scopes      []string     `json:"scopes,omitempty"`
	Life        web.Duration `json:"life" required:"true"`
	MadeAt      web.Time     `json:"made_at" required:"true"`
}

func binding(b credentials.Binding) Binding {
	return Binding{
		Name: string(b.Name), Scope: b.Scope.String(), For: b.For.String(), Target: string(b.Target.Name), TargetScope: b.Target.Scope.String(), Way: string(b.Way),
		Database: string(b.Database), Group: string(b.Group), Role: string(b.Role), Life: web.Duration(b.Life), Connections: b.Connections, Leases: b.Leases,
		Audiences: b.Audiences, Scopes: b.Scopes, MadeAt: web.Time{Time: b.MadeAt},
	}
}

// BindingRequest says whose identity gets what.
type BindingRequest struct {
	place
	Name        string         `json:"name" required:"true" maxLength:"63"`
	For         string         `json:"for" required:"true" maxLength:"2048" description:"A SPIFFE ID; its last part may be * (any workload of that scope) or ** (and below)."`
	Target      string         `json:"target,omitempty" maxLength:"63" description:"For a login: a target of the scope, or of one above it."`
	TargetScope identity.Scope `json:"target_scope,omitempty" description:"Which scope's, where several have one of that name; the nearest if absent."`
	Way         string         `json:"way,omitempty" enum:"leased,certificate,static" description:"How it gets in; leased if absent."`
	Database    string         `json:"database,omitempty" maxLength:"63"`
	Group       string         `json:"group,omitempty" maxLength:"63" description:"Whose rights the login has."`
	Role        string         `json:"role,omitempty" maxLength:"63" description:"The login itself, unless it is leased."`
	Life        web.Duration   `json:"life" required:"true" description:"How long a login or a token lasts at most, as in 1h."`
	Audiences   []string       `json:"audiences,omitempty" maxItems:"50" description:"For tokens: whom they are for."`
	Scopes      []string       `json:"scopes,omitempty" maxItems:"50" description:"For tokens: what they may carry as scope."`
	Connections int            `json:"connections,omitempty" minimum:"0" maximum:"1000" description:"At once for each login; 10 if absent."`
	Leases      int            `json:"leases,omitempty" minimum:"0" maximum:"1000" description:"At once for each identity; 10 if absent."`
}

func (d *door) addBinding(ctx context.Context, who identity.Caller, in BindingRequest) (Binding, error) {
	p, err := credentials.ParsePattern(in.For)
	if err != nil {
		return Binding{}, &policy.Refusal{What: "binding", Rule: "the form of bindings", Remedy: err.Error()}
	}
	b, err := d.office.AddBinding(ctx, who, credentials.Binding{
		Name: credentials.Label(in.Name), Scope: in.Scope, For: p, Target: credentials.Target{Name: credentials.Label(in.Target), Scope: in.TargetScope},
		Way: credentials.Way(in.Way), Database: credentials.Word(in.Database), Group: credentials.Word(in.Group), Role: credentials.Word(in.Role),
		Life: time.Duration(in.Life), Connections: in.Connections, Leases: in.Leases, Audiences: in.Audiences, Scopes: in.Scopes,
	})
	return binding(b), err
}

// EndBindingRequest names a binding.
type EndBindingRequest struct {
	place
	Binding string `json:"-" path:"binding"`
}

func (d *door) endBinding(ctx context.Context, who identity.Caller, in EndBindingRequest) (web.Nothing, error) {
	return web.Nothing{}, d.office.EndBinding(ctx, who, in.Scope, credentials.Label(in.Binding))
}

// BindingList is every binding: they are few, and come on one page.
type BindingList struct {
	Bindings []Binding `json:"bindings" required:"true"`
}

func (d *door) bindings(ctx context.Context, who identity.Caller, in PlaceRequest) (BindingList, error) {
	list, err := d.office.Bindings(ctx, who, in.Scope)
	out := BindingList{Bindings: []Binding{}}
	for _, b := range list {
		out.Bindings = append(out.Bindings, binding(b))
	}
	return out, err
}
