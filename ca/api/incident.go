package api

import (
	"context"
	"encoding/hex"
	"fmt"
	"net/http"
	"time"

	"codeberg.org/dataverket/segl/ca/incident"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/policy"
	"codeberg.org/dataverket/segl/internal/uid"
	"codeberg.org/dataverket/segl/internal/web"
)

// incidents are the routes of the lever: operators choose many certificates, and see what became of them.
func (d *door) incidents() []web.Route {
	const one = "/v1/incidents/{incident}"
	return []web.Route{
		{
			Method: http.MethodPost, Path: "/v1/incidents:preview", ID: "previewIncident", Access: web.Operator,
			Summary: "Count the certificates that an incident would touch", Handler: web.JSON(d.preview),
		},
		{
			Method: http.MethodPost, Path: "/v1/incidents", ID: "createIncident", Access: web.Operator, Status: http.StatusCreated,
			Summary: "Have certificates renewed over a time, or revoked at a deadline, or both", Handler: web.JSON(d.createIncident),
		},
		{
			Method: http.MethodPost, Path: "/v1/certificates:revoke", ID: "revokeMany", Access: web.Operator, Status: http.StatusAccepted,
			Summary: "Revoke many certificates, for ever: their status says so from the answer on, and the incident says how far their lists are", Handler: web.JSON(d.revokeMany),
		},
		{
			Method: http.MethodGet, Path: "/v1/incidents", ID: "listIncidents", Access: web.Operator,
			Summary: "Incidents, the newest first", Handler: web.JSON(d.listIncidents),
		},
		{
			Method: http.MethodGet, Path: one, ID: "showIncident", Access: web.Operator,
			Summary: "One incident, how far it is, and who obeyed", Handler: web.JSON(d.showIncident),
		},
		{
			Method: http.MethodGet, Path: one + "/certificates", ID: "listCertificatesOfIncident", Access: web.Operator,
			Summary: "What an incident touches, and what became of each", Handler: web.JSON(d.members),
		},
		{
			Method: http.MethodPost, Path: one + ":cancel", ID: "cancelIncident", Access: web.Operator,
			Summary: "End an incident that does not revoke yet: renewal windows go back to where they were", Handler: web.JSON(d.cancelIncident),
		},
	}
}

// incidentTable are the problems of incidents.
func incidentTable() web.Table {
	return web.Table{
		{Err: incident.ErrNotFound, Status: http.StatusNotFound, Name: "not-found", Title: "There is no such thing, or not for this caller"},
		{Err: incident.ErrNothing, Status: http.StatusNotFound, Name: "not-found", Title: "There is no such authority or scope"},
		{Err: incident.ErrOver, Status: http.StatusConflict, Name: "incident-over", Title: "The incident is over, or revokes already", Remedy: "what is revoked stays revoked"},
		{Err: incident.ErrTooMany, Status: http.StatusConflict, Name: "too-many-incidents", Title: "Too many incidents are in force", Remedy: "cancel some that have done their work"},
		{Err: incident.ErrConflict, Status: http.StatusConflict, Name: "already-done", Title: "This was done already, with something else", Remedy: "repeat the same request, or use another Idempotency-Key"},
		{Err: incident.ErrUncounted, Status: http.StatusConflict, Name: "too-many-certificates", Title: "There are too many certificates to look through", Remedy: "choose by scope or authority too"},
	}
}

// IncidentChoice says which certificates. What is absent chooses all; at least one is there.
type IncidentChoice struct {
	Authority    string   `json:"authority,omitempty" description:"That this authority signed, by its name."`
	Profile      string   `json:"profile,omitempty" description:"Of this profile."`
	Scope        string   `json:"scope,omitempty" description:"Of this scope and everything below it."`
	Name         string   `json:"name,omitempty" description:"With this name, as in dns:a.test or ip:192.0.2.1; .a.test is every DNS name below a.test."`
	Key          string   `json:"key,omitempty" pattern:"^[0-9a-f]{64}$" description:"With this key: SHA-256 of its SubjectPublicKeyInfo, in hex."`
	IssuedAfter  web.Time `json:"issued_after,omitzero" description:"Issued then or later."`
	IssuedBefore web.Time `json:"issued_before,omitzero" description:"Issued before then; never after the incident itself."`
}

func (c IncidentChoice) read() (incident.Choice, error) {
	out := incident.Choice{Authority: c.Authority, Profile: c.Profile, From: c.IssuedAfter.Time, To: c.IssuedBefore.Time}
	refuse := func(what, remedy string) error {
		return &policy.Refusal{What: what, Rule: "the form of a choice", Remedy: remedy}
	}
	var err error
	if c.Scope != "" {
		if out.Scope, err = identity.ParseScope(c.Scope); err != nil {
			return out, refuse(fmt.Sprintf("scope %.100q", c.Scope), err.Error())
		}
	}
	if c.Name != "" {
		if err := out.ParseNames(c.Name); err != nil {
			return out, refuse(fmt.Sprintf("name %.100q", c.Name), err.Error())
		}
	}
	if c.Key != "" {
		b, err := hex.DecodeString(c.Key)
		if err != nil || len(b) != len(out.Key) {
			return out, refuse(fmt.Sprintf("key %.70q", c.Key), "give the SHA-256 of its SubjectPublicKeyInfo in 64 hex digits")
		}
		copy(out.Key[:], b)
	}
	return out, nil
}

func wireChoice(c incident.Choice) IncidentChoice {
	out := IncidentChoice{
		Authority: c.Authority, Profile: c.Profile, Scope: c.Scope.String(), Name: c.Names(),
		IssuedAfter: web.Time{Time: c.From}, IssuedBefore: web.Time{Time: c.To},
	}
	if c.Key != (cert.KeyID{}) {
		out.Key = c.Key.String()
	}
	return out
}

// An IncidentOrder asks for an incident.
type IncidentOrder struct {
	Choice      IncidentChoice `json:"choice" required:"true"`
	Why         string         `json:"why" required:"true" maxLength:"200" description:"For the record."`
	Explanation string         `json:"explanation,omitempty" maxLength:"512" description:"A page that tells holders why: the explanationURL of their renewal information (RFC 9773 §4.2)."`
	Spread      web.Duration   `json:"spread,omitempty" description:"Over how long, from now on, renewal windows are moved."`
	Deadline    web.Duration   `json:"deadline,omitempty" description:"After how long what has no successor is revoked."`
	Reason      string         `json:"reason,omitempty" description:"Why it is then revoked (RFC 5280 §5.3.1)."`
}

// PreviewRequest asks what an incident would touch.
type PreviewRequest struct{ IncidentOrder }

// CreateIncidentRequest asks for an incident.
type CreateIncidentRequest struct {
	Key web.IdempotencyKey `header:"Idempotency-Key" json:"-" description:"Makes a repetition of the request return the same incident."`
	IncidentOrder
}

func (o IncidentOrder) ask(now time.Time) (incident.Ask, error) {
	c, err := o.Choice.read()
	if err != nil {
		return incident.Ask{}, err
	}
	why, err := reason(o.Reason)
	if err != nil {
		return incident.Ask{}, err
	}
	ask := incident.Ask{Choice: c, Why: o.Why, Explanation: o.Explanation, Spread: time.Duration(o.Spread), Reason: why}
	if o.Deadline > 0 {
		ask.Deadline = now.Add(time.Duration(o.Deadline)).Truncate(time.Second)
	}
	return ask, nil
}

// reason reads a reason; none is unspecified.
func reason(s string) (cert.Reason, error) {
	if s == "" {
		return cert.Unspecified, nil
	}
	why, err := cert.ParseReason(s)
	if err != nil {
		return why, &policy.Refusal{What: fmt.Sprintf("reason %.40q", s), Rule: "the list of reasons", Remedy: err.Error()}
	}
	return why, nil
}

// Tally is how many certificates an incident touches, and what became of them.
type Tally struct {
	Chosen   int  `json:"chosen" required:"true" description:"Valid when the incident was recorded."`
	Waiting  int  `json:"waiting" required:"true" description:"Not replaced yet."`
	Replaced int  `json:"replaced" required:"true" description:"With a successor: renewed, or replaced as its requester said."`
	Revoked  int  `json:"revoked" required:"true"`
	Expired  int  `json:"expired" required:"true" description:"Expired without a successor."`
	Complete bool `json:"complete" required:"true" description:"False: there are more, and no time was left to count them."`
}

func (d *door) preview(ctx context.Context, who identity.Caller, in PreviewRequest) (Tally, error) {
	ask, err := in.ask(d.CA.Now())
	if err != nil {
		return Tally{}, err
	}
	t, err := d.Desk.Preview(ctx, who, ask)
	return Tally(t), err
}

func (d *door) createIncident(ctx context.Context, who identity.Caller, in CreateIncidentRequest) (IncidentMade, error) {
	ask, err := in.ask(d.CA.Now())
	if err != nil {
		return IncidentMade{}, err
	}
	return d.made(ctx, who, in.Key, ask)
}

// RevokeManyRequest asks for the revocation of many certificates.
type RevokeManyRequest struct {
	Key    web.IdempotencyKey `header:"Idempotency-Key" json:"-" description:"Makes a repetition of the request return the same incident."`
	Choice IncidentChoice     `json:"choice" required:"true"`
	Reason string             `json:"reason" required:"true" description:"RFC 5280 §5.3.1; keyCompromise for a key alone, which it bars for ever."`
	Why    string             `json:"why" required:"true" maxLength:"200" description:"For the record."`
}

func (d *door) revokeMany(ctx context.Context, who identity.Caller, in RevokeManyRequest) (IncidentMade, error) {
	c, err := in.Choice.read()
	if err != nil {
		return IncidentMade{}, err
	}
	why, err := reason(in.Reason)
	if err != nil {
		return IncidentMade{}, err
	}
	return d.made(ctx, who, in.Key, incident.Ask{Choice: c, Why: in.Why, Reason: why, Everything: true})
}

func (d *door) made(ctx context.Context, who identity.Caller, key web.IdempotencyKey, ask incident.Ask) (IncidentMade, error) {
	if key != "" {
		ask.ID = incident.Origin(d.CA.Site, who, string(key))
	}
	i, err := d.Desk.Create(ctx, who, ask)
	if err != nil {
		return IncidentMade{}, err
	}
	return IncidentMade{d.incident(i), d.URL}, nil
}

// Incident is a choice of certificates and what is done to them.
type Incident struct {
	ID          string         `json:"id" required:"true"`
	State       string         `json:"state" required:"true" enum:"in force,revoking,finished,cancelled,over"`
	Cause       string         `json:"cause" required:"true" enum:"incident,revocation,retirement"`
	Why         string         `json:"why" required:"true"`
	Explanation string         `json:"explanation,omitempty"`
	Actor       string         `json:"actor" required:"true"`
	At          web.Time       `json:"at" required:"true"`
	Choice      IncidentChoice `json:"choice" required:"true"`
	Spread      *web.Duration  `json:"spread,omitempty"`
	Deadline    *web.Time      `json:"deadline,omitempty"`
	Reason      string         `json:"reason,omitempty"`
	Everything  bool           `json:"everything" required:"true" description:"At the deadline what has a successor is revoked too."`
	Revoked     int            `json:"revoked" required:"true" description:"Revoked by it so far: in lists. Status says so of all at once."`
	FinishedAt  *web.Time      `json:"finished_at,omitempty"`
}

// IncidentMade is an Incident that was just recorded.
type IncidentMade struct {
	Incident

	base string
}

// Header says where the incident is.
func (i IncidentMade) Header(h http.Header) { h.Set("Location", i.base+"/v1/incidents/"+i.ID) }

func (d *door) incident(i incident.Incident) Incident {
	out := Incident{
		ID: i.ID.String(), State: string(i.State(d.CA.Now())), Cause: string(i.Cause), Why: i.Why, Explanation: i.Explanation, Actor: i.Actor,
		At: web.Time{Time: i.At}, Choice: wireChoice(i.Choice), Everything: i.Everything, Revoked: i.Revoked,
	}
	if i.Spread > 0 {
		spread := web.Duration(i.Spread)
		out.Spread = &spread
	}
	if !i.Deadline.IsZero() {
		out.Deadline, out.Reason = &web.Time{Time: i.Deadline}, i.Reason.String()
	}
	if !i.Finished.IsZero() {
		out.FinishedAt = &web.Time{Time: i.Finished}
	}
	return out
}

// ListIncidentsRequest asks for incidents.
type ListIncidentsRequest struct{ web.Page }

// IncidentList is a part of a list. There is more while it has a next_page_token.
type IncidentList struct {
	Incidents     []Incident  `json:"incidents" required:"true"`
	NextPageToken *web.Cursor `json:"next_page_token,omitempty"`
}

func (d *door) listIncidents(ctx context.Context, who identity.Caller, in ListIncidentsRequest) (IncidentList, error) {
	found, err := d.Desk.List(ctx, who, incident.Page{After: in.Token.At(), Limit: in.Size + 1})
	if err != nil {
		return IncidentList{}, err
	}
	out := IncidentList{Incidents: make([]Incident, 0, len(found))}
	for n, i := range found {
		if n == in.Size {
			next := web.CursorAt(found[n-1].ID.Bytes())
			out.NextPageToken = &next
			break
		}
		out.Incidents = append(out.Incidents, d.incident(i))
	}
	return out, nil
}

// A NamedIncident is one by its identifier.
type NamedIncident struct {
	ID uid.UID `json:"-" path:"incident" pattern:"^50[0-9a-f]{34}$"`
}

// ShowIncidentRequest names an incident.
type ShowIncidentRequest struct{ NamedIncident }

// IncidentShown is an Incident with what became of what it touches.
type IncidentShown struct {
	Incident
	Tally Tally `json:"tally" required:"true"`
}

func (d *door) showIncident(ctx context.Context, who identity.Caller, in ShowIncidentRequest) (IncidentShown, error) {
	i, t, err := d.Desk.Show(ctx, who, in.ID)
	if err != nil {
		return IncidentShown{}, err
	}
	return IncidentShown{d.incident(i), Tally(t)}, nil
}

// CancelIncidentRequest names an incident.
type CancelIncidentRequest struct{ NamedIncident }

func (d *door) cancelIncident(ctx context.Context, who identity.Caller, in CancelIncidentRequest) (Incident, error) {
	i, err := d.Desk.Cancel(ctx, who, in.ID)
	if err != nil {
		return Incident{}, err
	}
	return d.incident(i), nil
}

// MembersRequest asks for what an incident touches.
type MembersRequest struct {
	NamedIncident
	web.Page
	Fate string `json:"-" query:"fate" enum:"waiting,replaced,revoked,expired" description:"Only those it became of."`
}

// Member is a certificate that an incident touches.
type Member struct {
	Serial     string   `json:"serial" required:"true" pattern:"^10[0-9a-f]{34}$"`
	Scope      string   `json:"scope" required:"true"`
	Profile    string   `json:"profile" required:"true"`
	NotAfter   web.Time `json:"not_after" required:"true"`
	Fate       string   `json:"fate" required:"true" enum:"waiting,replaced,revoked,expired"`
	ReplacedBy string   `json:"replaced_by,omitempty"`
}

// MemberList is a part of a list. There is more while it has a next_page_token.
type MemberList struct {
	Certificates  []Member    `json:"certificates" required:"true"`
	NextPageToken *web.Cursor `json:"next_page_token,omitempty"`
}

func (d *door) members(ctx context.Context, who identity.Caller, in MembersRequest) (MemberList, error) {
	found, err := d.Desk.Members(ctx, who, in.ID, incident.Fate(in.Fate), incident.Page{After: in.Token.At(), Limit: in.Size + 1})
	if err != nil {
		return MemberList{}, err
	}
	out := MemberList{Certificates: make([]Member, 0, len(found))}
	for n, m := range found {
		if n == in.Size {
			next := web.CursorAt(found[n-1].Serial.Bytes())
			out.NextPageToken = &next
			break
		}
		v := Member{Serial: m.Serial.String(), Scope: m.Scope, Profile: m.Profile, NotAfter: web.Time{Time: m.NotAfter}, Fate: string(m.Fate)}
		if !m.ReplacedBy.IsZero() {
			v.ReplacedBy = m.ReplacedBy.String()
		}
		out.Certificates = append(out.Certificates, v)
	}
	return out, nil
}
