package api

import (
	"context"
	"strconv"

	"codeberg.org/dataverket/segl/internal/access"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/web"
)

// Approval is what somebody asked for that a second operator has to confirm.
type Approval struct {
	ID        int64     `json:"id" required:"true"`
	Kind      string    `json:"kind" required:"true"`
	Scope     string    `json:"scope" required:"true"`
	Terms     string    `json:"terms" required:"true" description:"What exactly will be done."`
	State     string    `json:"state" required:"true" description:"pending, approved, rejected, expired or done."`
	AskedAt   web.Time  `json:"asked_at" required:"true"`
	AskedBy   string    `json:"asked_by" required:"true"`
	AskedAct  string    `json:"asked_act,omitempty" description:"Who really asked, where the asker was delegated to."`
	Expires   web.Time  `json:"expires" required:"true"`
	DecidedAt *web.Time `json:"decided_at,omitempty"`
	DecidedBy string    `json:"decided_by,omitempty"`
	DoneAt    *web.Time `json:"done_at,omitempty"`
}

func (d *door) approval(a access.Approval) Approval {
	out := Approval{
		ID: a.ID, Kind: string(a.Kind), Scope: a.Scope.String(), Terms: a.Terms, State: a.State(d.Now()), AskedAt: web.Time{Time: a.AskedAt},
		AskedBy: a.AskedBy, AskedAct: a.AskedAct, Expires: web.Time{Time: a.Expires}, DecidedBy: a.DecidedBy,
	}
	if !a.DecidedAt.IsZero() {
		out.DecidedAt = &web.Time{Time: a.DecidedAt}
	}
	if !a.UsedAt.IsZero() {
		out.DoneAt = &web.Time{Time: a.UsedAt}
	}
	return out
}

// ApprovalsRequest asks for a page.
type ApprovalsRequest struct{ web.Page }

// ApprovalList is a part of a list. There is more while it has a next_page_token.
type ApprovalList struct {
	Approvals     []Approval  `json:"approvals" required:"true"`
	NextPageToken *web.Cursor `json:"next_page_token,omitempty"`
}

func (d *door) approvals(ctx context.Context, who identity.Caller, in ApprovalsRequest) (ApprovalList, error) {
	before, _ := strconv.ParseInt(string(in.Token.At()), 10, 64)
	size := min(in.Size, 100) //nolint:mnd // a page
	list, err := d.Keeper.Approvals(ctx, who, before, size+1)
	if err != nil {
		return ApprovalList{}, err
	}
	out := ApprovalList{Approvals: []Approval{}}
	for _, a := range list[:min(size, len(list))] {
		out.Approvals = append(out.Approvals, d.approval(a))
	}
	if len(list) > size {
		next := web.CursorAt(strconv.AppendInt(nil, list[size-1].ID, 10))
		out.NextPageToken = &next
	}
	return out, nil
}

// DecideRequest names a request.
type DecideRequest struct {
	ID int `json:"-" path:"id" minimum:"1" maximum:"2147483647"`
}

func (d *door) approve(ctx context.Context, who identity.Caller, in DecideRequest) (Approval, error) {
	return d.decide(ctx, who, in, true)
}

func (d *door) reject(ctx context.Context, who identity.Caller, in DecideRequest) (Approval, error) {
	return d.decide(ctx, who, in, false)
}

func (d *door) decide(ctx context.Context, who identity.Caller, in DecideRequest, approve bool) (Approval, error) {
	a, err := d.Keeper.Decide(ctx, who, int64(in.ID), approve)
	if err != nil {
		return Approval{}, err
	}
	return d.approval(a), nil
}
