// Package api is the HTTP door to who may do what: bindings of roles, explanations, and what waits for a second operator.
//
// A handler decodes, calls one method of a Keeper and encodes; the domain decides who may. The door keeps no state and is safe
// for concurrent use.
package api

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"codeberg.org/dataverket/segl/internal/access"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/policy"
	"codeberg.org/dataverket/segl/internal/web"
)

// A Keeper keeps bindings and requests.
type Keeper interface {
	// Name returns who with what it is granted now.
	Name(who identity.Caller) identity.Caller
	// Bindings returns those that hold at a scope or below it, by number.
	Bindings(who identity.Caller, at identity.Scope) ([]access.Binding, error)
	// Grant records a binding. access.ErrExists, access.ErrPending.
	Grant(ctx context.Context, who identity.Caller, b access.Binding) (access.Binding, error)
	// End takes one away. access.ErrNotFound.
	End(ctx context.Context, who identity.Caller, id int64, why string) (access.Binding, error)
	// Approvals returns the newest requests that who may see, of lower numbers than before.
	Approvals(ctx context.Context, who identity.Caller, before int64, limit int) ([]access.Approval, error)
	// Decide confirms a request or turns it down. access.ErrNotFound, access.ErrOver.
	Decide(ctx context.Context, who identity.Caller, id int64, approve bool) (access.Approval, error)
}

type door struct {
	Config
}

// Config is what the door stands on.
type Config struct {
	Keeper Keeper
	Now    func() time.Time
	Below  web.Table // problems of what it stands on
}

// Problems are what two having to agree looks like at whichever door it is met.
func Problems() web.Table {
	return web.Table{{
		Err: access.ErrPending, Status: http.StatusConflict, Name: "approval-needed", Title: "A second operator has to confirm this",
		Remedy: "have another admin of the platform confirm the request (segl approval approve), then ask again as before",
	}}
}

// Operator returns the door of the operator listener.
func Operator(c Config) web.Door {
	d := &door{c}
	table := append(web.Table{
		{Err: access.ErrExists, Status: http.StatusConflict, Name: "binding-exists", Title: "That role is bound there already"},
		{Err: access.ErrOver, Status: http.StatusConflict, Name: "over", Title: "The request was decided, has expired, or was carried out"},
		{Err: access.ErrNotFound, Status: http.StatusNotFound, Name: "not-found", Title: "There is no such thing, or not for this caller"},
	}, Problems()...)
	route := func(method, path, id, summary string, asks access.Action, h web.Handler) web.Route {
		return web.Route{Method: method, Path: path, ID: id, Access: web.Operator, Asks: asks, Anywhere: true, Summary: summary, Handler: h}
	}
	grant := route(http.MethodPost, "/v1/bindings", "grantRole", "Bind a role to an identity or a claim, at a scope and below it", access.Grant, web.JSON(d.grant))
	grant.Status = http.StatusCreated
	return web.Door{Table: append(table, c.Below...), Routes: []web.Route{
		grant,
		route(http.MethodGet, "/v1/bindings", "listBindings", "Who was given which role, in a scope and below it", access.ReadRoles, web.JSON(d.list)),
		route(http.MethodPost, "/v1/bindings/{id}:end", "endBinding", "Take a role away", access.Grant, web.JSON(d.end)),
		route(http.MethodPost, "/v1/access:explain", "explainAccess", "Whether somebody may do something in a scope, and which rule says so", access.ReadScopes, web.JSON(d.explain)),
		route(http.MethodGet, "/v1/approvals", "listApprovals", "What waits, or waited, for a second operator; the newest first", access.ReadScopes, web.JSON(d.approvals)),
		route(http.MethodPost, "/v1/approvals/{id}:approve", "approveRequest", "Confirm what another operator asked for", access.Approve, web.JSON(d.approve)),
		route(http.MethodPost, "/v1/approvals/{id}:reject", "rejectRequest", "Turn down what another operator asked for, or take it back", access.ReadScopes, web.JSON(d.reject)),
	}}
}

// Service returns the tenants' part: why the caller itself may do something or not.
func Service(c Config) web.Door {
	d := &door{c}
	return web.Door{Table: c.Below, Routes: []web.Route{{
		Method: http.MethodPost, Path: "/v1/access:explain", ID: "explainOwnAccess", Access: web.Holder,
		Summary: "Whether the caller may do something in a scope, and which rule says so", Handler: web.JSON(d.explainSelf),
	}}}
}

// RoleBinding is a role of an identity or a claim, at a scope and below it.
type RoleBinding struct {
	ID       int64    `json:"id" required:"true"`
	Role     string   `json:"role" required:"true"`
	Scope    string   `json:"scope" required:"true"`
	Identity string   `json:"identity,omitempty" description:"A SPIFFE ID, its last part * for any workload there, or ** for any there and below."`
	Issuer   string   `json:"issuer,omitempty"`
	Claim    string   `json:"claim,omitempty"`
	Value    string   `json:"value,omitempty"`
	MadeAt   web.Time `json:"made_at" required:"true"`
	MadeBy   string   `json:"made_by" required:"true"`
}

func wire(b access.Binding) RoleBinding {
	return RoleBinding{
		ID: b.ID, Role: string(b.Role), Scope: b.Scope.String(), Identity: b.Subject.Identity, Issuer: b.Subject.Issuer, Claim: b.Subject.Claim,
		Value: b.Subject.Value, MadeAt: web.Time{Time: b.MadeAt}, MadeBy: b.MadeBy,
	}
}

// GrantRequest gives a role to an identity, or to a claim with its issuer.
type GrantRequest struct {
	Role     string         `json:"role" required:"true" description:"reader, issuer, revoker, auditor or admin."`
	Scope    identity.Scope `json:"scope" required:"true" description:"Where it holds, and below; at platform it holds everywhere."`
	Identity string         `json:"identity,omitempty" description:"A SPIFFE ID, its last part * for any workload there, or ** for any there and below."`
	Issuer   string         `json:"issuer,omitempty" description:"Who makes the claim, as its tokens spell it."`
	Claim    string         `json:"claim,omitempty" description:"The claim's name."`
	Value    string         `json:"value,omitempty" description:"A value that it has, alone or among others."`
}

func (d *door) grant(ctx context.Context, who identity.Caller, in GrantRequest) (RoleBinding, error) {
	refuse := func(err error) (RoleBinding, error) {
		return RoleBinding{}, &policy.Refusal{What: "binding a role", Rule: "the form of bindings", Remedy: err.Error()}
	}
	role, err := access.ParseRole(in.Role)
	if err != nil {
		return refuse(err)
	}
	var s access.Subject
	if in.Identity != "" {
		s, err = access.ParseIdentity(in.Identity)
	} else {
		s, err = access.NewClaim(in.Issuer, in.Claim, in.Value)
	}
	if err != nil {
		return refuse(err)
	}
	if in.Identity != "" {
		s.Issuer, s.Claim, s.Value = in.Issuer, in.Claim, in.Value // both at once is refused there
	}
	b, err := d.Keeper.Grant(ctx, who, access.Binding{Role: role, Scope: in.Scope, Subject: s})
	if err != nil {
		return RoleBinding{}, err
	}
	return wire(b), nil
}

// ListRequest says where.
type ListRequest struct {
	Scope identity.Scope `json:"-" query:"scope" default:"platform" description:"The scope; the platform is everywhere."`
	web.Page
}

// RoleBindingList is a part of a list. There is more while it has a next_page_token.
type RoleBindingList struct {
	Bindings      []RoleBinding `json:"bindings" required:"true"`
	NextPageToken *web.Cursor   `json:"next_page_token,omitempty"`
}

func (d *door) list(_ context.Context, who identity.Caller, in ListRequest) (RoleBindingList, error) {
	all, err := d.Keeper.Bindings(who, in.Scope)
	if err != nil {
		return RoleBindingList{}, err
	}
	after, _ := strconv.ParseInt(string(in.Token.At()), 10, 64)
	out := RoleBindingList{Bindings: []RoleBinding{}}
	for _, b := range all {
		if b.ID <= after {
			continue
		}
		if len(out.Bindings) == in.Size {
			next := web.CursorAt(strconv.AppendInt(nil, out.Bindings[in.Size-1].ID, 10))
			out.NextPageToken = &next
			break
		}
		out.Bindings = append(out.Bindings, wire(b))
	}
	return out, nil
}

// EndRequest takes a role away.
type EndRequest struct {
	ID  int    `json:"-" path:"id" minimum:"1" maximum:"2147483647"`
	Why string `json:"why,omitempty" maxLength:"200" description:"For the record."`
}

func (d *door) end(ctx context.Context, who identity.Caller, in EndRequest) (RoleBinding, error) {
	b, err := d.Keeper.End(ctx, who, int64(in.ID), in.Why)
	if err != nil {
		return RoleBinding{}, err
	}
	return wire(b), nil
}
