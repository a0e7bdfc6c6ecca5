package api

import (
	"context"
	"encoding/base64"
	"errors"
	"net/http"
	"time"

	"codeberg.org/dataverket/segl/acme"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/uid"
	"codeberg.org/dataverket/segl/internal/web"
)

// Operator returns the REST door to what operators decide about ACME: external account keys, and what a scope's directory
// asks and offers. below are the problems of what it stands on.
func Operator(server *acme.Server, below web.Table) web.Door {
	o := &office{server}
	table := web.Table{{Err: acme.ErrNotFound, Status: http.StatusNotFound, Name: "not-found", Title: "There is no such scope or key"}}
	var routes []web.Route
	for _, at := range []struct{ name, path string }{
		{"Platform", "/v1/platform"},
		{"Tenant", "/v1/tenants/{tenant}"},
		{"Project", "/v1/tenants/{tenant}/projects/{project}"},
		{"Environment", "/v1/tenants/{tenant}/projects/{project}/environments/{environment}"},
	} {
		keys := at.path + "/acme/external-account-keys"
		routes = append(routes,
			web.Route{
				Method: http.MethodPost, Path: keys, ID: "createExternalAccountKeyIn" + at.name, Access: web.Operator, Status: http.StatusCreated,
				Summary: "Make an external account key; its secret is told this once", Handler: web.JSON(o.create),
			},
			web.Route{
				Method: http.MethodGet, Path: keys, ID: "listExternalAccountKeysIn" + at.name, Access: web.Operator,
				Summary: "External account keys of the scope, the oldest first", Handler: web.JSON(o.list),
			},
			web.Route{
				Method: http.MethodPost, Path: keys + "/{id}:revoke", ID: "revokeExternalAccountKeyIn" + at.name, Access: web.Operator,
				Summary: "End an external account key: the accounts it bound order nothing any more", Handler: web.JSON(o.revoke),
			},
			web.Route{
				Method: http.MethodGet, Path: at.path + "/acme/settings", ID: "showACMESettingsOf" + at.name, Access: web.Operator,
				Summary: "What the scope's ACME directory asks and offers", Handler: web.JSON(o.setting),
			},
			web.Route{
				Method: http.MethodPut, Path: at.path + "/acme/settings", ID: "setACMESettingsOf" + at.name, Access: web.Operator,
				Summary: "Replace what the scope's ACME directory asks and offers", Handler: web.JSON(o.set),
			})
	}
	return web.Door{Table: append(table, below...), Routes: routes}
}

type office struct{ server *acme.Server }

// A place is the scope of the path. A path without one is the platform's.
type place struct {
	Scope identity.Scope `default:"platform" json:"-" path:"tenant,project,environment"`
}

// CreateKeyRequest asks for an external account key.
type CreateKeyRequest struct {
	place
	Label    string       `json:"label" required:"true" description:"Whose it is, for people."`
	Names    []string     `json:"names,omitempty" maxItems:"100" description:"What its accounts may order: dns:shop.test, dns:*.shop.test (one label below, and that wildcard), ip:192.0.2.0/24. Absent: all that the scope may have."`
	Approved []string     `json:"approved_names,omitempty" maxItems:"100" description:"Names, in the same form, that its accounts get without a challenge."`
	Uses     int          `json:"uses,omitempty" minimum:"0" maximum:"1000000" description:"How many accounts it may bind. Absent: any number."`
	TTL      web.Duration `json:"ttl,omitempty" description:"How long it may bind accounts. Absent: until it is revoked."`
}

// Key is an external account key without its secret.
type Key struct {
	ID       string    `json:"id" required:"true" description:"What clients are given as the key identifier."`
	Scope    string    `json:"scope" required:"true"`
	Label    string    `json:"label" required:"true"`
	State    string    `json:"state" required:"true" description:"valid, used-up, expired or revoked."`
	Names    *[]string `json:"names" required:"true" description:"null: all that the scope may have."`
	Approved []string  `json:"approved_names" required:"true"`
	Uses     *int      `json:"uses" required:"true" description:"null: any number."`
	Used     int       `json:"used" required:"true" description:"How many accounts it has bound."`
	Made     web.Time  `json:"created_at" required:"true"`
	Expires  *web.Time `json:"expires_at" required:"true" description:"null: never."`
	Revoked  *web.Time `json:"revoked_at" required:"true" description:"null while it stands."`
}

// NewKey is a key with its secret, which is told once and kept sealed.
type NewKey struct {
	Key
	Secret    string `json:"secret" required:"true" description:"The MAC key, base64url, as ACME clients take it."`
	Directory string `json:"directory_scope" required:"true" description:"The scope whose ACME directory takes it."`
}

func (o *office) wire(b acme.Binding) Key {
	k := Key{ID: b.ID.String(), Scope: b.Scope.String(), Label: b.Label, State: b.State(o.server.Now()), Approved: append([]string{}, b.Approved...), Used: b.Used, Made: web.Time{Time: b.Made}}
	if b.Names != nil {
		k.Names = &b.Names
	}
	if b.Uses > 0 {
		k.Uses = &b.Uses
	}
	if !b.Expires.IsZero() {
		k.Expires = &web.Time{Time: b.Expires}
	}
	if !b.Revoked.IsZero() {
		k.Revoked = &web.Time{Time: b.Revoked}
	}
	return k
}

func (o *office) create(ctx context.Context, who identity.Caller, in CreateKeyRequest) (NewKey, error) {
	ask := acme.Binding{Scope: in.Scope, Label: in.Label, Names: in.Names, Approved: in.Approved, Uses: in.Uses}
	if in.TTL > 0 {
		ask.Expires = o.server.Now().Add(time.Duration(in.TTL)).UTC().Truncate(time.Second)
	}
	b, secret, err := o.server.CreateBinding(ctx, who, ask)
	if err != nil {
		return NewKey{}, err
	}
	return NewKey{Key: o.wire(b), Secret: base64.RawURLEncoding.EncodeToString(secret), Directory: b.Scope.String()}, nil
}

// ListKeysRequest asks for the keys of the path's scope.
type ListKeysRequest struct {
	place
	web.Page
}

// KeyList is a part of a list. There is more while it has a next_page_token.
type KeyList struct {
	Keys          []Key       `json:"external_account_keys" required:"true"`
	NextPageToken *web.Cursor `json:"next_page_token,omitempty"`
}

func (o *office) list(ctx context.Context, who identity.Caller, in ListKeysRequest) (KeyList, error) {
	var after uid.UID
	if at := in.Token.At(); len(at) > 0 {
		var err error
		if after, err = uid.FromBytes(at); err != nil {
			return KeyList{}, &web.Fault{Status: http.StatusBadRequest, Name: "invalid-parameter", Title: "A parameter cannot be read", Detail: "page_token is not of this list", Remedy: "begin again without one"}
		}
	}
	all, err := o.server.ListBindings(ctx, who, in.Scope, after, in.Size+1)
	if err != nil {
		return KeyList{}, err
	}
	out := KeyList{Keys: []Key{}}
	for i, b := range all {
		if i == in.Size {
			next := web.CursorAt(all[i-1].ID.Bytes())
			out.NextPageToken = &next
			break
		}
		out.Keys = append(out.Keys, o.wire(b))
	}
	return out, nil
}

// RevokeKeyRequest ends a key.
type RevokeKeyRequest struct {
	place
	ID string `json:"-" path:"id"`
}

func (o *office) revoke(ctx context.Context, who identity.Caller, in RevokeKeyRequest) (Key, error) {
	id, err := uid.Parse(in.ID)
	if err != nil {
		return Key{}, errors.Join(acme.ErrNotFound, err)
	}
	b, err := o.server.RevokeBinding(ctx, who, in.Scope, id)
	if err != nil {
		return Key{}, err
	}
	return o.wire(b), nil
}

// SettingRequest asks for the settings of the path's scope.
type SettingRequest struct{ place }

// Declares is what a scope says itself. What is null is as the scope above says.
type Declares struct {
	BindingRequired *bool    `json:"external_account_required" description:"Whether a new account needs an external account key."`
	Profiles        []string `json:"profiles" description:"The profiles that may be ordered; the first is what an order gets that names none."`
}

// Settings are what the ACME directory of a scope asks and offers.
type Settings struct {
	Scope           string   `json:"scope" required:"true"`
	BindingRequired bool     `json:"external_account_required" required:"true"`
	Profiles        []string `json:"profiles" required:"true"`
	Own             Declares `json:"own" required:"true" description:"What the scope says itself."`
}

func (o *office) setting(ctx context.Context, _ identity.Caller, in SettingRequest) (Settings, error) {
	if err := o.server.Open(ctx, in.Scope); err != nil {
		return Settings{}, errors.Join(acme.ErrNotFound, err)
	}
	own, err := o.server.Declared(ctx, in.Scope)
	if err != nil {
		return Settings{}, err
	}
	now, err := o.server.Setting(ctx, in.Scope)
	if err != nil {
		return Settings{}, err
	}
	return Settings{Scope: in.Scope.String(), BindingRequired: *now.BindingRequired, Profiles: now.Profiles, Own: Declares{own.BindingRequired, own.Profiles}}, nil
}

// A SettingsRequest replaces what a scope says itself. What is absent is as the scope above says.
type SettingsRequest struct {
	place
	Declares
}

func (o *office) set(ctx context.Context, who identity.Caller, in SettingsRequest) (Settings, error) {
	if err := o.server.Set(ctx, who, in.Scope, acme.Setting{BindingRequired: in.BindingRequired, Profiles: in.Profiles}); err != nil {
		return Settings{}, err
	}
	return o.setting(ctx, who, SettingRequest{place: in.place})
}
