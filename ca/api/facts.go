package api

import (
	"context"
	"net/http"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/internal/access"
	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/web"
)

// Facts reads what happened.
type Facts interface {
	// Read returns a page of the facts that q selects. Only finished transactions are read, so none is ever missed by
	// going on from where a page ended.
	Read(ctx context.Context, q audit.Query) (audit.Page, error)
}

// factRoutes are the routes of facts and refusals below a path; name ends their ids.
func (d *door) factRoutes(who web.Access, path, name string, facts, refusals, follow web.Handler) []web.Route {
	var out []web.Route
	if d.Facts != nil {
		out = append(
			out,
			web.Route{Method: http.MethodGet, Path: path + "/facts", ID: "listFacts" + name, Access: who, Summary: "What happened, in order", Handler: facts},
			web.Route{
				Method: http.MethodGet, Path: path + "/refusals", ID: "listRefusals" + name, Access: who,
				Summary: "Who was refused what, and by which rule, the newest first", Handler: refusals,
			},
		)
	}
	if d.Feed != nil {
		out = append(out, web.Route{
			Method: http.MethodGet, Path: path + "/facts:follow", ID: "followFacts" + name, Access: who,
			Summary: "What happens, as it becomes known: server-sent events named fact, and end when the stream ends", Handler: follow,
		})
	}
	return out
}

// Choice narrows a list of facts.
type Choice struct {
	What    string   `json:"-" query:"what" description:"Only those of this kind, as in certificate.issue."`
	Actor   string   `json:"-" query:"actor" description:"Only what this one did."`
	Serial  string   `json:"-" query:"serial" description:"Only those about this certificate."`
	Refused bool     `json:"-" query:"refused" description:"Only what was refused."`
	Since   web.Time `json:"-" query:"since" description:"Only those of then or later."`
}

// query is what c selects in a scope.
func (c Choice) query(in identity.Scope) (audit.Query, error) {
	q := audit.Query{Scope: in, What: c.What, Actor: c.Actor, Refused: c.Refused, Since: c.Since.Time}
	var err error
	if c.Serial != "" {
		if q.Serial, err = cert.ParseSerial(c.Serial); err != nil {
			return q, badParameter("serial", err)
		}
	}
	return q, nil
}

// Span says which part of a list of facts, and in which order.
type Span struct {
	Until web.Time `json:"-" query:"until" description:"Only those before then."`
	Order string   `json:"-" query:"order" default:"oldest" pattern:"^(oldest|newest)$" description:"Which come first: oldest, or newest."`
	web.Page
}

// FactsRequest asks for the facts of a scope.
type FactsRequest struct {
	place
	Choice
	Span
}

// AllFactsRequest asks for facts of every scope.
type AllFactsRequest struct {
	Scope string `json:"-" query:"scope" description:"Only those of this scope and below."`
	Choice
	Span
}

// within reads the scope that a list of everything is narrowed to.
func within(scope string) (identity.Scope, error) {
	if scope == "" {
		return identity.Scope{}, nil
	}
	s, err := identity.ParseScope(scope)
	if err != nil {
		return s, badParameter("scope", err)
	}
	return s, nil
}

// Fact is something that happened, or was refused.
type Fact struct {
	ID      string   `json:"id" required:"true" description:"Where it stands among the facts."`
	At      web.Time `json:"at" required:"true"`
	What    string   `json:"what" required:"true"`
	Allowed bool     `json:"allowed" required:"true"`
	Actor   string   `json:"actor" required:"true"`
	Act     string   `json:"act,omitempty" description:"Who really acted, where the actor was delegated to (RFC 8693 §4.1)."`
	Scope   string   `json:"scope,omitempty"`
	Serial  string   `json:"serial,omitempty"`
	Subject string   `json:"subject,omitempty"`
	Why     string   `json:"why,omitempty"`
	Request string   `json:"request,omitempty" description:"Of a refusal: the last part of the instance in the problem that told of it."`
}

// FactList is a part of the list of facts. It always has a next_page_token: facts never end. A page looks at a bounded
// number of facts, so it may hold few, or none, while there is more.
type FactList struct {
	Facts         []Fact     `json:"facts" required:"true"`
	More          bool       `json:"more" required:"true" description:"Whether there may be more now. If not, the token is for later."`
	NextPageToken web.Cursor `json:"next_page_token" required:"true"`
}

func (d *door) facts(ctx context.Context, who identity.Caller, in FactsRequest) (FactList, error) {
	if !access.May(who, access.ReadFacts, in.Scope) {
		return FactList{}, ca.ErrNotFound
	}
	return d.listFacts(ctx, in.Scope, in.Choice, in.Span)
}

func (d *door) allFacts(ctx context.Context, _ identity.Caller, in AllFactsRequest) (FactList, error) {
	scope, err := within(in.Scope)
	if err != nil {
		return FactList{}, err
	}
	return d.listFacts(ctx, scope, in.Choice, in.Span)
}

func (d *door) listFacts(ctx context.Context, scope identity.Scope, c Choice, s Span) (FactList, error) {
	q, err := c.query(scope)
	if err != nil {
		return FactList{}, err
	}
	q.Until, q.Newest, q.Limit = s.Until.Time, s.Order == "newest", s.Size
	if s.Order != "newest" && s.Order != "oldest" {
		return FactList{}, badParameter("order", errOrder)
	}
	if q.After, err = readPosition(s.Token); err != nil {
		return FactList{}, err
	}
	page, err := d.Facts.Read(ctx, q)
	if err != nil {
		return FactList{}, err
	}
	out := FactList{Facts: make([]Fact, 0, len(page.Entries)), More: page.More, NextPageToken: s.Token}
	for _, e := range page.Entries {
		out.Facts = append(out.Facts, factOf(e))
	}
	if !page.Next.IsZero() {
		out.NextPageToken = web.CursorAt([]byte(page.Next.String()))
	}
	return out, nil
}

func factOf(e audit.Entry) Fact {
	f := Fact{
		ID: e.Position.String(), At: web.Time{Time: e.At}, What: e.What, Allowed: !e.Refused, Actor: e.Who.Actor, Act: e.Who.Act,
		Scope: e.Scope.String(), Subject: e.Subject, Why: e.Why, Request: e.Who.Request,
	}
	if !e.Serial.IsZero() {
		f.Serial = e.Serial.String()
	}
	return f
}

func readPosition(c web.Cursor) (audit.Position, error) {
	if len(c.At()) == 0 {
		return audit.Position{}, nil
	}
	p, err := audit.ParsePosition(string(c.At()))
	if err != nil {
		return audit.Position{}, errToken()
	}
	return p, nil
}
