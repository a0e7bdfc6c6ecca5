package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/internal/access"
	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/feed"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/web"
)

// Feed hands out facts as they become known.
type Feed interface {
	Follow(ctx context.Context, f feed.Follower) error
}

// Onward says from where to follow.
type Onward struct {
	After string `json:"-" query:"after" description:"The id of the last event seen, to go on from. Without it, and without since, following begins now."`
	Last  string `header:"Last-Event-ID" json:"-" description:"The same, as clients of event streams send it when they come again. It goes before after."`
}

// FollowRequest asks for what happens in a scope.
type FollowRequest struct {
	place
	Choice
	Onward
}

// FollowAllRequest asks for what happens anywhere.
type FollowAllRequest struct {
	Scope string `json:"-" query:"scope" description:"Only that of this scope and below."`
	Choice
	Onward
}

// End is the last event of a stream that the server ends.
type End struct {
	Reason string `json:"reason"` // slow, draining, unadmitted or trouble
	Detail string `json:"detail,omitempty"`
	Resume bool   `json:"resume"` // coming again with Last-Event-ID makes sense at once
}

func (d *door) follow(ctx context.Context, who identity.Caller, in FollowRequest, s *web.Stream) error {
	if !access.May(who, access.ReadFacts, in.Scope) {
		return ca.ErrNotFound
	}
	return d.stream(ctx, who, in.Scope, in.Choice, in.Onward, s)
}

func (d *door) followAll(ctx context.Context, who identity.Caller, in FollowAllRequest, s *web.Stream) error {
	scope, err := within(in.Scope)
	if err != nil {
		return err
	}
	return d.stream(ctx, who, scope, in.Choice, in.Onward, s)
}

// position returns where to begin; nil is now.
func (o Onward) position(since web.Time) (*audit.Position, error) {
	at := o.Last
	if at == "" {
		at = o.After
	}
	if at == "" && since.IsZero() {
		return nil, nil
	}
	var p audit.Position
	var err error
	if at != "" {
		if p, err = audit.ParsePosition(at); err != nil {
			return nil, badParameter("after or Last-Event-ID", err)
		}
	}
	return &p, nil
}

// stream sends facts until following ends, and then says why.
func (d *door) stream(ctx context.Context, who identity.Caller, scope identity.Scope, c Choice, o Onward, s *web.Stream) error {
	q, err := c.query(scope)
	if err != nil {
		return err
	}
	after, err := o.position(c.Since)
	if err != nil {
		return err
	}
	err = d.Feed.Follow(ctx, feed.Follower{
		Caller: who.Actor, Serial: who.Serial, Query: q, After: after,
		Deliver: func(facts []audit.Entry, at audit.Position) error { return deliver(s, facts, at) },
	})
	switch {
	case errors.Is(err, feed.ErrFull):
		return &web.Fault{
			Status: http.StatusTooManyRequests, Name: "too-many-followers", Title: "Too many follow the facts already",
			Detail: "this replica, or this caller, has as many streams as are allowed", Remedy: "close one, or come again later",
		}
	case errors.Is(err, feed.ErrAhead):
		return &web.Fault{
			Status: http.StatusConflict, Name: "position-ahead", Title: "The position is ahead of the ledger",
			Detail: err.Error(), Remedy: "begin again without after and Last-Event-ID, with since if nothing may be missed",
		}
	}
	end := endOf(err)
	b, merr := json.Marshal(end)
	if merr != nil {
		panic("api: internal error: an end cannot be encoded: " + merr.Error())
	}
	if sendErr := s.SendLast(web.Event{Name: "end", Data: b}); sendErr != nil {
		return sendErr
	}
	return err
}

// endOf says why following ended, in words for the follower.
func endOf(err error) End {
	switch {
	case errors.Is(err, feed.ErrSlow):
		return End{"slow", "facts came faster than they were taken: come again with Last-Event-ID", true}
	case errors.Is(err, web.ErrDraining):
		return End{"draining", "the server is going away: come again with Last-Event-ID", true}
	case errors.Is(err, feed.ErrRevoked):
		return End{"unadmitted", "the certificate was revoked", false}
	case errors.Is(err, web.ErrUnadmitted):
		return End{"unadmitted", "the certificate has expired, was revoked, or cannot be checked", false}
	}
	return End{"trouble", "the ledger could not be read: come again with Last-Event-ID", true}
}

// atOneTime is how many events are written at once: a client has a bounded time for each write.
const atOneTime = 200

func deliver(s *web.Stream, facts []audit.Entry, at audit.Position) error {
	if len(facts) == 0 {
		return s.Send(web.Event{ID: at.String()})
	}
	events := make([]web.Event, 0, min(len(facts), atOneTime))
	for i, e := range facts {
		b, err := json.Marshal(factOf(e))
		if err != nil {
			return fmt.Errorf("encoding fact %s: %w", e.Position, err)
		}
		events = append(events, web.Event{ID: e.Position.String(), Name: "fact", Data: b})
		if len(events) == atOneTime || i == len(facts)-1 {
			if err := s.Send(events...); err != nil {
				return err
			}
			events = events[:0]
		}
	}
	return nil
}
