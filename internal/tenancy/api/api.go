// Package api is the operators' HTTP door to scopes: tenants, projects and environments, and what names each may bear.
//
// A handler decodes, calls one method of tenancy and encodes; the routes admit operators alone. The door keeps no state and
// is safe for concurrent use.
package api

import (
	"context"
	"fmt"
	"net/http"
	"sort"

	"codeberg.org/dataverket/segl/internal/access"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/policy"
	"codeberg.org/dataverket/segl/internal/tenancy"
	"codeberg.org/dataverket/segl/internal/web"
)

type door struct {
	scopes  *tenancy.Registry
	deleter *tenancy.Deleter
	walk    tenancy.Walker
}

// Config is what the door stands on.
type Config struct {
	Scopes  *tenancy.Registry
	Deleter *tenancy.Deleter
	Walk    tenancy.Walker // shows certificates to who wants to know what a change would do
	Below   web.Table      // problems of what it stands on
}

// Operator returns the door of the operator listener.
func Operator(c Config) web.Door {
	d := &door{c.Scopes, c.Deleter, c.Walk}
	table := web.Table{
		{Err: tenancy.ErrExists, Status: http.StatusConflict, Name: "scope-exists", Title: "The scope exists", Remedy: "change its rights instead, or choose another name"},
		{Err: tenancy.ErrNoParent, Status: http.StatusConflict, Name: "no-parent", Title: "The scope above does not exist", Remedy: "create that first"},
		{Err: tenancy.ErrUnchanged, Status: http.StatusConflict, Name: "unchanged", Title: "The scope is suspended already, or was not", Remedy: "nothing is left to do"},
		{Err: tenancy.ErrNotFound, Status: http.StatusNotFound, Name: "not-found", Title: "There is no such scope"},
	}
	return web.Door{Table: append(table, c.Below...), Routes: d.routes()}
}

// A level is one kind of scope: where its collection is, and where one of them.
type level struct{ name, one, many, item string }

var levels = []level{
	{"Tenant", "tenant", "/v1/tenants", "/v1/tenants/{tenant}"},
	{"Project", "project", "/v1/tenants/{tenant}/projects", "/v1/tenants/{tenant}/projects/{project}"},
	{
		"Environment", "environment", "/v1/tenants/{tenant}/projects/{project}/environments",
		"/v1/tenants/{tenant}/projects/{project}/environments/{environment}",
	},
}

func (d *door) routes() []web.Route {
	out := []web.Route{
		d.get("showPlatform", "/v1/platform", "The platform's own scope", web.JSON(d.show)),
		d.put("setRightsOfPlatform", "/v1/platform/rights", "Replace the name rights of the platform's own scope"),
		d.preview("Platform", "/v1/platform"),
	}
	out = append(out, d.deletionRoutes()...)
	for _, l := range levels {
		out = append(
			out,
			d.get("list"+l.name+"s", l.many, "The "+l.one+"s, by name", web.JSON(d.list)),
			web.Route{
				Method: http.MethodPost, Path: l.many, ID: "create" + l.name, Access: web.Operator, Asks: access.ChangeScopes, Anywhere: true, Status: http.StatusCreated,
				Summary: "Create a scope: " + l.one, Handler: web.JSON(d.create),
			},
			d.get("show"+l.name, l.item, "One "+l.one, web.JSON(d.show)),
			d.preview(l.name, l.item),
			d.put("setRightsOf"+l.name, l.item+"/rights", "Replace the name rights of a scope: "+l.one),
			d.post("suspend"+l.name, l.item+":suspend", "Stop issuing in a scope and below it: "+l.one, web.JSON(d.suspend)),
			d.post("resume"+l.name, l.item+":resume", "Issue again in a scope: "+l.one, web.JSON(d.resume)),
		)
	}
	return out
}

func (d *door) get(id, path, summary string, h web.Handler) web.Route {
	return web.Route{Method: http.MethodGet, Path: path, ID: id, Access: web.Operator, Asks: access.ReadScopes, Summary: summary, Handler: h}
}

func (d *door) put(id, path, summary string) web.Route {
	return web.Route{Method: http.MethodPut, Path: path, ID: id, Access: web.Operator, Asks: access.ChangeScopes, Anywhere: true, Summary: summary, Handler: web.JSON(d.setRights)}
}

func (d *door) preview(name, path string) web.Route {
	return web.Route{
		Method: http.MethodPost, Path: path + "/rights:preview", ID: "previewRightsOf" + name, Access: web.Operator, Asks: access.ChangeScopes, Anywhere: true,
		Summary: "Which live certificates would not be renewed if a scope had these name rights", Handler: web.JSON(d.previewRights),
	}
}

func (d *door) post(id, path, summary string, h web.Handler) web.Route {
	return web.Route{Method: http.MethodPost, Path: path, ID: id, Access: web.Operator, Asks: access.Suspend, Anywhere: true, Summary: summary, Handler: h}
}

// Rights are the names a scope may bear. What is absent is left to the scopes above; an empty list allows nothing.
type Rights struct {
	DNS    []string `json:"dns,omitempty" description:"DNS names: shop.test itself, *.shop.test one label below it."`
	IP     []string `json:"ip,omitempty" description:"Addresses, or ranges in CIDR form."`
	SPIFFE []string `json:"spiffe,omitempty" description:"Workload names; * is any."`
}

// Scope is a tenant, a project or an environment.
type Scope struct {
	Scope     string   `json:"scope" required:"true" description:"Its path, as in demo/shop/dev."`
	Name      string   `json:"name" required:"true"`
	State     string   `json:"state" required:"true" description:"active, suspended, deleting or deleted."`
	Rights    Declared `json:"rights" required:"true"`
	CreatedAt web.Time `json:"created_at" required:"true"`
	// SuspendedAt and SuspendedBy are there while nothing is issued in the scope.
	SuspendedAt *web.Time `json:"suspended_at,omitempty" description:"Since when it is suspended itself."`
	SuspendedBy string    `json:"suspended_by,omitempty" description:"The scope whose suspension stops it: its own, or one above it."`
}

// Declared are the rights of a scope as they stand. A list that is null is left to the scopes above.
type Declared struct {
	DNS    *[]string `json:"dns" required:"true"`
	IP     *[]string `json:"ip" required:"true"`
	SPIFFE *[]string `json:"spiffe" required:"true"`
}

func (d *door) wire(s tenancy.Scope) Scope {
	name := s.Scope.Tenant()
	switch {
	case s.Scope.IsPlatform():
		name = "platform"
	case s.Scope.Environment() != "":
		name = s.Scope.Environment()
	case s.Scope.Project() != "":
		name = s.Scope.Project()
	}
	out := Scope{
		Scope: s.Scope.String(), Name: name, State: string(d.scopes.State(s.Scope)), CreatedAt: web.Time{Time: s.CreatedAt},
		Rights:      Declared{declared(s.Rights.DNS), declared(s.Rights.IP), declared(s.Rights.SPIFFE)},
		SuspendedBy: d.scopes.Suspended(s.Scope).String(),
	}
	if !s.SuspendedAt.IsZero() {
		out.SuspendedAt = &web.Time{Time: s.SuspendedAt}
	}
	return out
}

func declared(list []string) *[]string {
	if list == nil {
		return nil
	}
	return &list
}

// A place is the scope of the path. A path without one is the platform's.
type place struct {
	Scope identity.Scope `default:"platform" json:"-" path:"tenant,project,environment"`
}

// above is the scope of the path that a collection is in; the zero Scope for the tenants.
type above struct {
	Parent identity.Scope `json:"-" path:"tenant,project"`
}

// ShowRequest names a scope.
type ShowRequest struct{ place }

func (d *door) show(_ context.Context, _ identity.Caller, in ShowRequest) (Scope, error) {
	s, err := d.scopes.Scope(in.Scope)
	if err != nil {
		return Scope{}, err
	}
	return d.wire(s), nil
}

// CreateRequest asks for a scope below that of the path.
type CreateRequest struct {
	above
	Name string `json:"name" required:"true" description:"1 to 63 of a-z, 0-9 and hyphen."`
	Rights
}

func (d *door) create(ctx context.Context, who identity.Caller, in CreateRequest) (Scope, error) {
	path := in.Name
	if !in.Parent.IsZero() {
		path = in.Parent.String() + "/" + in.Name
	}
	s, err := identity.ParseScope(path)
	if err != nil {
		return Scope{}, &policy.Refusal{What: fmt.Sprintf("scope %.80q", in.Name), Rule: "the form of scopes", Remedy: err.Error()}
	}
	if parent, _ := s.Parent(); parent != in.Parent || s.IsPlatform() { // a slash in the name, or the platform's
		return Scope{}, &policy.Refusal{What: fmt.Sprintf("scope %.80q", in.Name), Rule: "the form of scopes", Remedy: "give one name, and not platform"}
	}
	made, err := d.scopes.Create(ctx, who, s, policy.Rights(in.Rights))
	if err != nil {
		return Scope{}, err
	}
	return d.wire(made), nil
}

// RightsRequest replaces the rights of a scope.
type RightsRequest struct {
	place
	Rights
}

func (d *door) setRights(ctx context.Context, who identity.Caller, in RightsRequest) (Scope, error) {
	s, err := d.scopes.SetRights(ctx, who, in.Scope, policy.Rights(in.Rights))
	if err != nil {
		return Scope{}, err
	}
	return d.wire(s), nil
}

// SuspensionRequest suspends or resumes the scope of the path.
type SuspensionRequest struct {
	place
	Why string `json:"why,omitempty" maxLength:"200" description:"For the record."`
}

func (d *door) suspend(ctx context.Context, who identity.Caller, in SuspensionRequest) (Scope, error) {
	s, err := d.scopes.Suspend(ctx, who, in.Scope, in.Why)
	if err != nil {
		return Scope{}, err
	}
	return d.wire(s), nil
}

func (d *door) resume(ctx context.Context, who identity.Caller, in SuspensionRequest) (Scope, error) {
	s, err := d.scopes.Resume(ctx, who, in.Scope, in.Why)
	if err != nil {
		return Scope{}, err
	}
	return d.wire(s), nil
}

// ListRequest asks for the scopes below that of the path.
type ListRequest struct {
	above
	web.Page
}

// ScopeList is a part of a list. There is more while it has a next_page_token.
type ScopeList struct {
	Scopes        []Scope     `json:"scopes" required:"true"`
	NextPageToken *web.Cursor `json:"next_page_token,omitempty"`
}

func (d *door) list(_ context.Context, _ identity.Caller, in ListRequest) (ScopeList, error) {
	if !in.Parent.IsZero() {
		if _, err := d.scopes.Scope(in.Parent); err != nil {
			return ScopeList{}, err
		}
	}
	children := d.scopes.Children(in.Parent)
	sort.Slice(children, func(i, j int) bool { return children[i].Scope.String() < children[j].Scope.String() })
	after := string(in.Token.At())
	from := sort.Search(len(children), func(i int) bool { return children[i].Scope.String() > after })
	out := ScopeList{Scopes: []Scope{}}
	for _, c := range children[from:] {
		if len(out.Scopes) == in.Size {
			next := web.CursorAt([]byte(out.Scopes[in.Size-1].Scope))
			out.NextPageToken = &next
			break
		}
		out.Scopes = append(out.Scopes, d.wire(c))
	}
	return out, nil
}
