package api

import (
	"context"
	"net/http"
	"strconv"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/internal/access"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/policy"
	"codeberg.org/dataverket/segl/internal/web"
)

// methodRoutes are those of whose proofs let whom in.
func (d *door) methodRoutes(at depth) []web.Route {
	many := at.path + "/enrollment-methods"
	return []web.Route{
		{
			Method: http.MethodPost, Path: many, ID: "addMethodIn" + at.name, Access: web.Operator, Asks: access.ChangeScopes, Status: http.StatusCreated,
			Summary: "Let in who proves to be somebody, beside one-time tokens", Handler: web.JSON(d.addMethod),
		},
		{
			Method: http.MethodGet, Path: many, ID: "listMethodsIn" + at.name, Access: web.Operator, Asks: access.ReadScopes,
			Summary: "Enrolment methods of the scope and below, the newest first, ended ones too", Handler: web.JSON(d.listMethods),
		},
		{
			Method: http.MethodPost, Path: many + "/{method}:end", ID: "endMethodIn" + at.name, Access: web.Operator, Asks: access.ChangeScopes,
			Summary: "Let nobody in by a method any more; who came by it stays", Handler: web.JSON(d.endMethod),
		},
	}
}

// MethodSpec says whose proofs let whom in.
type MethodSpec struct {
	Name     string            `json:"name" required:"true" pattern:"^[a-z][a-z0-9-]{0,39}$"`
	Kind     string            `json:"kind" required:"true" enum:"oidc,kubernetes,jwk,x5c" description:"oidc: an OpenID provider's tokens; kubernetes: a service account's; jwk: by a registered key; x5c: by a certificate below a registered root."`
	Profile  string            `json:"profile,omitempty" description:"What is issued: workload or client; workload if absent."`
	Workload string            `json:"workload,omitempty" description:"Who is let in. If absent, whom the proof is about: its subject, of a service account the name."`
	Names    []string          `json:"names,omitempty" maxItems:"100" description:"Host names that may be had besides."`
	Subject  string            `json:"subject" required:"true" maxLength:"256" description:"Whom a proof must be about (sub); a * at its end stands for any end."`
	Issuer   string            `json:"issuer,omitempty" maxLength:"512" description:"Who a proof must be from (iss); of oidc and kubernetes, where the keys are found unless keys has them."`
	Audience string            `json:"audience,omitempty" maxLength:"512" description:"Whom it must be for (aud); segl:TRUST-DOMAIN:SCOPE:NAME if absent."`
	Claims   map[string]string `json:"claims,omitempty" description:"What else it must say."`
	Keys     string            `json:"keys,omitempty" maxLength:"65536" description:"Public keys, a JWK set (RFC 7517): of jwk, and of a cluster that cannot be asked."`
	Roots    string            `json:"roots,omitempty" maxLength:"65536" description:"Root certificates in PEM: of x5c."`
	Cluster  string            `json:"cluster,omitempty" description:"The configured API server that is asked by TokenReview: of kubernetes."`
}

// AddMethodRequest is a MethodSpec in a scope.
type AddMethodRequest struct {
	place
	MethodSpec
}

// An EnrollmentMethod is one that was made.
type EnrollmentMethod struct {
	ID    string `json:"id" required:"true"`
	Scope string `json:"scope" required:"true"`
	Ref   string `json:"ref" required:"true" description:"What a proof is sent with, as method."`
	MethodSpec
	MadeAt  web.Time  `json:"made_at" required:"true"`
	EndedAt *web.Time `json:"ended_at,omitempty"`
}

func wireMethod(m ca.Method) EnrollmentMethod {
	out := EnrollmentMethod{ID: strconv.FormatInt(m.ID, 10), Scope: m.Scope.String(), Ref: m.Ref(), MadeAt: web.Time{Time: m.MadeAt}, MethodSpec: MethodSpec{
		Name: m.Name, Kind: string(m.Kind), Profile: m.Profile, Workload: m.Workload, Subject: m.Subject, Issuer: m.Issuer, Audience: m.Audience,
		Claims: m.Claims, Keys: string(m.Keys), Roots: string(m.Roots), Cluster: m.Cluster,
	}}
	for _, n := range m.Names {
		out.Names = append(out.Names, n.String())
	}
	if !m.EndedAt.IsZero() {
		out.EndedAt = &web.Time{Time: m.EndedAt}
	}
	return out
}

func (d *door) addMethod(ctx context.Context, who identity.Caller, in AddMethodRequest) (EnrollmentMethod, error) {
	m := ca.Method{
		Scope: in.Scope, Name: in.Name, Kind: ca.ProofKind(in.Kind), Profile: in.Profile, Workload: in.Workload, Subject: in.Subject, Issuer: in.Issuer,
		Audience: in.Audience, Claims: in.Claims, Keys: []byte(in.Keys), Roots: []byte(in.Roots), Cluster: in.Cluster,
	}
	for _, s := range in.Names {
		n, err := cert.ParseName(s)
		if err != nil {
			return EnrollmentMethod{}, &policy.Refusal{What: "name " + strconv.Quote(s), Rule: "the form of a name", Remedy: err.Error()}
		}
		m.Names = append(m.Names, n)
	}
	made, err := d.CA.AddMethod(ctx, who, m)
	if err != nil {
		return EnrollmentMethod{}, err
	}
	return wireMethod(made), nil
}

// A NamedMethod is one by its name.
type NamedMethod struct {
	place
	Name string `json:"-" path:"method" pattern:"^[a-z][a-z0-9-]{0,39}$"`
}

// EndMethodRequest names a method.
type EndMethodRequest struct{ NamedMethod }

func (d *door) endMethod(ctx context.Context, who identity.Caller, in EndMethodRequest) (EnrollmentMethod, error) {
	m, err := d.CA.EndMethod(ctx, who, in.Scope, in.Name)
	if err != nil {
		return EnrollmentMethod{}, err
	}
	return wireMethod(m), nil
}

// ListMethodsRequest asks for those of a scope and below.
type ListMethodsRequest struct {
	place
	web.Page
}

// MethodList is a page of them.
type MethodList struct {
	Methods       []EnrollmentMethod `json:"methods" required:"true"`
	NextPageToken *web.Cursor        `json:"next_page_token,omitempty"`
}

func (d *door) listMethods(ctx context.Context, who identity.Caller, in ListMethodsRequest) (MethodList, error) {
	before := int64(0)
	if at := in.Token.At(); len(at) > 0 {
		var err error
		if before, err = strconv.ParseInt(string(at), 10, 64); err != nil || before < 1 {
			return MethodList{}, &web.Fault{Status: http.StatusBadRequest, Name: "invalid-parameter", Title: "A parameter cannot be read", Detail: "page_token is not of this list", Remedy: "begin again without one"}
		}
	}
	found, err := d.CA.MethodsIn(ctx, who, in.Scope, before, in.Size+1)
	if err != nil {
		return MethodList{}, err
	}
	out := MethodList{Methods: []EnrollmentMethod{}}
	for i, m := range found {
		if i == in.Size {
			next := web.CursorAt([]byte(strconv.FormatInt(found[i-1].ID, 10)))
			out.NextPageToken = &next
			break
		}
		out.Methods = append(out.Methods, wireMethod(m))
	}
	return out, nil
}
