package api

import (
	"context"
	"net/http"
	"time"

	"codeberg.org/dataverket/segl/internal/access"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/policy"
	"codeberg.org/dataverket/segl/internal/tenancy"
	"codeberg.org/dataverket/segl/internal/web"
)

func (d *door) deletionRoutes() []web.Route {
	return []web.Route{
		{
			Method: http.MethodPost, Path: levels[0].item + ":previewDeletion", ID: "previewDeletionOfTenant", Access: web.Operator, Asks: access.Delete,
			Summary: "How much deleting a tenant would end", Handler: web.JSON(d.previewDeletion), Anywhere: true,
		},
		{
			Method: http.MethodPost, Path: levels[0].item + ":delete", ID: "deleteTenant", Access: web.Operator, Asks: access.Delete, Anywhere: true, Status: http.StatusAccepted,
			Summary: "Delete a tenant: stop it at once, end all it has, then set its name free", Handler: web.JSON(d.delete),
		},
		{
			Method: http.MethodGet, Path: "/v1/deletions/{id}", ID: "showDeletion", Access: web.Operator, Asks: access.ReadScopes,
			Summary: "How far the deletion of a tenant is, and what it ended", Handler: web.JSON(d.deletion),
		},
	}
}

// Deletion is a tenant that is being deleted, or was; or, of a preview, how much there is.
type Deletion struct {
	ID           int64     `json:"id,omitempty"`
	Tenant       string    `json:"tenant" required:"true"`
	State        string    `json:"state" required:"true" description:"preview, deleting or deleted."`
	AskedBy      string    `json:"asked_by,omitempty"`
	AskedAt      *web.Time `json:"asked_at,omitempty"`
	FinishedAt   *web.Time `json:"finished_at,omitempty"`
	Gone         string    `json:"gone,omitempty" description:"The name that what it left has since."`
	Scopes       int       `json:"scopes" required:"true"`
	Certificates int       `json:"certificates" required:"true" description:"Valid ones, which were revoked."`
	Accounts     int       `json:"accounts" required:"true" description:"Of ACME."`
	Keys         int       `json:"keys" required:"true" description:"External account keys."`
	Roles        int       `json:"roles" required:"true"`
	Methods      int       `json:"methods" required:"true" description:"Of enrolment."`
	Targets      int       `json:"targets" required:"true" description:"Where credentials were made, and the bindings that made them."`
}

func deletionOf(v tenancy.Deletion, state string) Deletion {
	out := Deletion{
		ID: v.ID, Tenant: v.Tenant.String(), State: state, AskedBy: v.AskedBy, Gone: v.Gone.String(), Scopes: v.Scopes, Certificates: v.Certificates,
		Accounts: v.Accounts, Keys: v.Keys, Roles: v.Roles, Methods: v.Methods, Targets: v.Targets,
	}
	at := func(t time.Time) *web.Time {
		if t.IsZero() {
			return nil
		}
		return &web.Time{Time: t}
	}
	out.AskedAt, out.FinishedAt = at(v.AskedAt), at(v.FinishedAt)
	return out
}

// DeleteRequest names a tenant.
type DeleteRequest struct {
	Tenant identity.Scope `json:"-" path:"tenant"`
	Why    string         `json:"why,omitempty" maxLength:"200" description:"For the record."`
}

func (d *door) previewDeletion(ctx context.Context, who identity.Caller, in DeleteRequest) (Deletion, error) {
	v, err := d.deleter.Preview(ctx, who, in.Tenant)
	return deletionOf(v, "preview"), err
}

func (d *door) delete(ctx context.Context, who identity.Caller, in DeleteRequest) (Deletion, error) {
	v, err := d.deleter.Delete(ctx, who, in.Tenant, in.Why)
	return deletionOf(v, "deleting"), err
}

// ShowDeletionRequest names a deletion.
type ShowDeletionRequest struct {
	ID int `json:"-" path:"id" minimum:"1" maximum:"2147483647"`
}

func (d *door) deletion(ctx context.Context, who identity.Caller, in ShowDeletionRequest) (Deletion, error) {
	v, err := d.deleter.Deletion(ctx, who, int64(in.ID))
	state := "deleting"
	if !v.FinishedAt.IsZero() {
		state = "deleted"
	}
	return deletionOf(v, state), err
}

// RightsImpact is what a change of rights would do to the certificates that are there.
type RightsImpact struct {
	Live     int              `json:"live" required:"true" description:"Valid certificates of the scope and below."`
	Refused  int              `json:"refused" required:"true" description:"How many of them would not be renewed."`
	Complete bool             `json:"complete" required:"true" description:"Every certificate was looked at; else there were too many."`
	First    []RefusedRenewal `json:"first" required:"true" description:"Up to 100 that would not be renewed, those that expire first."`
}

// RefusedRenewal is a certificate that would not be renewed.
type RefusedRenewal struct {
	Serial   string   `json:"serial" required:"true"`
	Scope    string   `json:"scope" required:"true"`
	Names    []string `json:"names" required:"true"`
	NotAfter web.Time `json:"not_after" required:"true"`
	Rule     string   `json:"rule" required:"true"`
	Remedy   string   `json:"remedy,omitempty"`
}

func (d *door) previewRights(ctx context.Context, who identity.Caller, in RightsRequest) (RightsImpact, error) {
	v, err := d.scopes.PreviewRights(ctx, who, in.Scope, policy.Rights(in.Rights), d.walk)
	if err != nil {
		return RightsImpact{}, err
	}
	out := RightsImpact{Live: v.Live, Refused: v.Refused, Complete: v.Complete, First: []RefusedRenewal{}}
	for _, c := range v.First {
		a := RefusedRenewal{Serial: c.Serial.String(), Scope: c.Scope.String(), Names: []string{}, NotAfter: web.Time{Time: c.NotAfter}, Rule: c.Rule, Remedy: c.Remedy}
		for _, n := range c.Names {
			a.Names = append(a.Names, n.String())
		}
		out.First = append(out.First, a)
	}
	return out, nil
}
