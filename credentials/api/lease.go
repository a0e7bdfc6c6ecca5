package api

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"codeberg.org/dataverket/segl/credentials"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/uid"
	"codeberg.org/dataverket/segl/internal/web"
)

// Lease is one login and what it came from. Times are absent where nothing of the kind happened.
type Lease struct {
	Lease       uid.UID         `json:"lease" required:"true"`
	State       string          `json:"state" required:"true" enum:"open,live,ending,overdue,gone"`
	Identity    string          `json:"identity" required:"true" description:"Whose it is."`
	Serial      cert.Serial     `json:"serial" required:"true" description:"The certificate it hangs on."`
	Scope       string          `json:"scope" required:"true"`
	Binding     string          `json:"binding" required:"true"`
	Target      string          `json:"target" required:"true"`
	TargetScope string          `json:"target_scope" required:"true"`
	Kind        string          `json:"kind" required:"true"`
	Way         string          `json:"way" required:"true"`
	Username    string          `json:"username" required:"true"`
	Database    string          `json:"database,omitempty"`
	MadeAt      web.Time        `json:"made_at" required:"true"`
	ExpiresAt   web.Time        `json:"expires_at" required:"true"`
	EndedAt     *web.Time       `json:"ended_at,omitempty"`
	Why         string          `json:"why,omitempty" description:"Why it ended: expired, released, revoked, unbound, suspended, incomplete or superseded."`
	GoneAt      *web.Time       `json:"gone_at,omitempty" description:"Since when the target no longer has it."`
	Tries       int             `json:"tries,omitempty" description:"How many tries to end it at the target have failed."`
	RetryAt     *web.Time       `json:"retry_at,omitempty"`
	Trouble     string          `json:"trouble,omitempty" description:"Why the last of them failed."`
	Receipts    []EffectReceipt `json:"receipts,omitempty"`
}

// EffectReceipt is one thing done at the target.
type EffectReceipt struct {
	Effect string   `json:"effect" required:"true"`
	Count  int      `json:"count,omitempty"`
	At     web.Time `json:"at" required:"true"`
}

func (d *door) wire(l credentials.Lease, now time.Time) Lease {
	t := l.Binding.Target
	out := Lease{
		Lease: l.ID, State: string(l.State(now)), Identity: l.Identity, Serial: l.Serial, Scope: l.Scope.String(), Binding: string(l.Binding.Name), Target: string(t.Name),
		TargetScope: t.Scope.String(), Kind: string(t.Kind), Way: string(l.Binding.Way), Username: l.Principal, Database: string(l.Binding.Database),
		MadeAt: web.Time{Time: l.MadeAt}, ExpiresAt: web.Time{Time: l.ExpiresAt}, EndedAt: orAbsent(l.EndedAt), Why: string(l.Why), GoneAt: orAbsent(l.GoneAt), Tries: l.Tries,
		RetryAt: orAbsent(l.RetryAt), Trouble: l.Trouble,
	}
	if out.EndedAt == nil && out.State != string(credentials.Live) && out.State != string(credentials.Open) {
		out.EndedAt, out.Why = &out.ExpiresAt, string(credentials.Expired)
	}
	return out
}

func orAbsent(t time.Time) *web.Time {
	if t.IsZero() {
		return nil
	}
	return &web.Time{Time: t}
}

// MakeRequest asks for a login.
type MakeRequest struct {
	Binding string       `json:"binding" required:"true" maxLength:"63" description:"Which of those of the caller's scope or above."`
	TTL     web.Duration `json:"ttl,omitempty" description:"How long it is to last, as in 30m; as long as may be if absent."`
}

// Login is a lease with what its holder logs in with. The password is in no other answer.
type Login struct {
	Lease
	Host      string `json:"host" required:"true"`
	Port      string `json:"port" required:"true"`
	Group     string `json:"group" required:"true"`
	Authority string `json:"authority,omitempty" description:"Who vouches for the server's certificate, in PEM; absent: this service's own roots."`
	Password  string `json:"password,omitempty" description:"Absent where the certificate is what lets in."`
}

// Header implements what web.JSON asks: where the lease is.
func (l Login) Header(h http.Header) { h.Set("Location", "/v1/leases/"+l.Lease.Lease.String()) }

func (d *door) make(ctx context.Context, who identity.Caller, in MakeRequest) (Login, error) {
	l, password, err := d.office.Lease(ctx, who, credentials.Label(in.Binding), time.Duration(in.TTL))
	if err != nil {
		return Login{}, err
	}
	host, port, err := net.SplitHostPort(l.Binding.Target.Address)
	if err != nil {
		return Login{}, fmt.Errorf("reading the address of target %s: %w", l.Binding.Target.Name, err)
	}
	return Login{
		Lease: d.wire(l, l.ReadyAt), Host: host, Port: port, Group: string(l.Binding.Group), Authority: l.Binding.Target.Authority, Password: password.Reveal(),
	}, nil
}

// LeaseRequest names a lease.
type LeaseRequest struct {
	Lease uid.UID `json:"-" path:"lease" pattern:"^60[0-9a-f]{34}$"`
}

func (d *door) show(ctx context.Context, who identity.Caller, in LeaseRequest) (Lease, error) {
	l, err := d.office.Show(ctx, who, in.Lease)
	if err != nil {
		return Lease{}, err
	}
	return d.received(ctx, who, l)
}

// received adds the receipts.
func (d *door) received(ctx context.Context, who identity.Caller, l credentials.Lease) (Lease, error) {
	out := d.wire(l, d.office.Now())
	list, err := d.office.Receipts(ctx, who, l.ID)
	for _, r := range list {
		out.Receipts = append(out.Receipts, EffectReceipt{string(r.Effect), r.Count, web.Time{Time: r.At}})
	}
	return out, err
}

func (d *door) end(ctx context.Context, who identity.Caller, in LeaseRequest) (Lease, error) {
	l, err := d.office.Release(ctx, who, in.Lease)
	if err != nil {
		return Lease{}, err
	}
	return d.received(ctx, who, l)
}

// LeaseRenewRequest names a lease and how much longer it is to last.
type LeaseRenewRequest struct {
	Lease uid.UID      `json:"-" path:"lease" pattern:"^60[0-9a-f]{34}$"`
	TTL   web.Duration `json:"ttl,omitempty" description:"How long from now, as in 30m; as long as may be if absent."`
}

func (d *door) renew(ctx context.Context, who identity.Caller, in LeaseRenewRequest) (Lease, error) {
	l, err := d.office.Extend(ctx, who, in.Lease, time.Duration(in.TTL))
	if err != nil {
		return Lease{}, err
	}
	return d.wire(l, d.office.Now()), nil
}

// LeasesRequest selects leases.
type LeasesRequest struct {
	place
	Identity string      `json:"-" query:"identity" description:"Only those of this SPIFFE ID."`
	Serial   cert.Serial `json:"-" query:"serial" description:"Only those that hang on this certificate."`
	Target   string      `json:"-" query:"target" description:"Only those at targets of this name."`
	Binding  string      `json:"-" query:"binding" description:"Only those of bindings of this name."`
	State    string      `json:"-" query:"state" enum:"open,live,ending,overdue,gone" description:"Only those in this state; a page may then hold fewer."`
	web.Page
}

// LeaseList is a part of a list, the newest first. There is more while it has a next_page_token.
type LeaseList struct {
	Leases        []Lease     `json:"leases" required:"true"`
	NextPageToken *web.Cursor `json:"next_page_token,omitempty"`
}

func (d *door) leases(ctx context.Context, who identity.Caller, in LeasesRequest) (LeaseList, error) {
	q := credentials.Query{
		Scope: in.Scope, Identity: strings.TrimSpace(in.Identity), Serial: in.Serial, Target: credentials.Label(in.Target), Binding: credentials.Label(in.Binding),
		State: credentials.State(in.State), Limit: in.Size,
	}
	if at := in.Token.At(); len(at) > 0 {
		var err error
		if q.After, err = uid.FromBytes(at); err != nil {
			return LeaseList{}, &web.Fault{Status: http.StatusBadRequest, Name: "bad-request", Title: "The request cannot be read", Detail: "page_token: not one of this list", Remedy: "begin without one"}
		}
	}
	list, next, err := d.office.Leases(ctx, who, q)
	if err != nil {
		return LeaseList{}, err
	}
	now, out := d.office.Now(), LeaseList{Leases: []Lease{}}
	for _, l := range list {
		out.Leases = append(out.Leases, d.wire(l, now))
	}
	if !next.IsZero() {
		at := web.CursorAt(next.Bytes())
		out.NextPageToken = &at
	}
	return out, nil
}
