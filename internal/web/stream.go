package web

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"time"

	"codeberg.org/dataverket/segl/internal/identity"
)

// EventStream is the media type of server-sent events (WHATWG HTML §9.2.5).
const EventStream = "text/event-stream"

// Why a stream ends that its client did not leave.
var (
	ErrDraining   = errors.New("the server is going away")
	ErrUnadmitted = errors.New("the caller is no longer admitted")
)

// An Event is one server-sent event. Data is on one line. An Event without Data moves the client's Last-Event-ID on and
// is otherwise heard by nobody (WHATWG HTML §9.2.6): a heartbeat.
type Event struct {
	ID, Name string
	Data     []byte
}

// A Stream is an answer that goes on until its handler returns.
type Stream struct {
	call    *call
	control *http.ResponseController
	begun   bool
	failed  bool // a write did: nothing more will arrive whole
}

// streamWrite is how long a client may take for one event before it is cut off.
const streamWrite = 10 * time.Second

// Events returns the handler of a stream of server-sent events. Request is bound as JSON does, without a body. The context of
// fn outlives the deadlines of ordinary requests; it ends when the client leaves, when the server drains and when the
// caller would no longer be admitted, which is asked again every few seconds: context.Cause says which. An error that
// fn returns before it sent anything becomes a problem.
func Events[Req any](fn func(ctx context.Context, who identity.Caller, in Req, s *Stream) error) Handler {
	plan := newPlan(reflect.TypeFor[Req]())
	if plan.members {
		panic(fmt.Sprintf("web: internal error: %s: a stream's request has no body", reflect.TypeFor[Req]()))
	}
	return Handler{in: reflect.TypeFor[Req](), params: plan.params, media: EventStream, serve: func(c *call) error {
		var in Req
		if err := plan.bind(c, reflect.ValueOf(&in).Elem()); err != nil {
			return err
		}
		s := &Stream{call: c, control: http.NewResponseController(c)}
		if c.r.Method == http.MethodHead {
			return s.begin()
		}
		ctx, cancel := context.WithCancelCause(c.whole)
		defer cancel(nil)
		stop := context.AfterFunc(c.server.draining, func() { cancel(ErrDraining) })
		defer stop()
		done := make(chan struct{})
		go func() {
			defer close(done)
			c.watch(ctx, cancel)
		}()
		err := fn(ctx, c.who, in, s)
		cancel(nil)
		<-done
		if err != nil && s.begun {
			c.err = nil // the client was told as well as could be; it may come again
			return nil
		}
		return err
	}}
}

// watch asks again and again whether the caller would be admitted, and ends the stream when not: also when that cannot be
// found out.
func (c *call) watch(ctx context.Context, end context.CancelCauseFunc) {
	if c.server.clients == nil || c.who.Actor == "" {
		return
	}
	again := time.NewTicker(c.server.recheck)
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-again.C:
		}
		asking, cancel := context.WithTimeout(ctx, c.server.timeout)
		who, err := c.evidence(asking, c.server.now(), c.route.Access)
		if err == nil && !who.Serial.IsZero() && c.server.clients.Admit != nil {
			err = c.server.clients.Admit(asking, who)
		}
		cancel()
		if err != nil && ctx.Err() == nil {
			end(fmt.Errorf("%w: %w", ErrUnadmitted, err))
			return
		}
	}
}

// begin sends the header, and takes off the deadlines that a request has by which a stream would end.
func (s *Stream) begin() error {
	h := s.call.Header()
	h["Content-Type"] = []string{EventStream}
	h["Cache-Control"] = noStore
	h["X-Accel-Buffering"] = []string{"no"} // nginx would hold events back
	if err := s.control.SetReadDeadline(time.Time{}); err != nil {
		return fmt.Errorf("beginning a stream: %w", err)
	}
	if err := s.control.SetWriteDeadline(time.Now().Add(streamWrite)); err != nil { //nolint:forbidigo // connections go by the machine's clock
		return fmt.Errorf("beginning a stream: %w", err)
	}
	s.begun = true
	s.call.WriteHeader(http.StatusOK)
	return s.control.Flush()
}

// Begin sends the header, so that the client knows that it is heard before there is anything to say.
func (s *Stream) Begin() error {
	if s.begun {
		return nil
	}
	return s.begin()
}

// SendLast sends the event that ends a stream, if it has begun and the client still takes it.
func (s *Stream) SendLast(e Event) error {
	if !s.begun || s.failed || s.call.whole.Err() != nil {
		return nil //nolint:nilerr // nobody is left to tell
	}
	return s.Send(e)
}

// Send sends events at once, or says that the client takes them too slowly or has gone. It is for one goroutine.
func (s *Stream) Send(events ...Event) error {
	if err := s.Begin(); err != nil {
		return err
	}
	var b bytes.Buffer
	for _, e := range events {
		if strings.ContainsAny(e.ID+e.Name, "\r\n\x00") || bytes.ContainsAny(e.Data, "\r\n") {
			panic("web: internal error: an event holds a line's end")
		}
		for _, f := range []struct{ name, value string }{{"id", e.ID}, {"event", e.Name}, {"data", string(e.Data)}} {
			if f.value != "" {
				b.WriteString(f.name + ": " + f.value + "\n")
			}
		}
		b.WriteByte('\n')
	}
	if err := s.control.SetWriteDeadline(time.Now().Add(streamWrite)); err != nil { //nolint:forbidigo // connections go by the machine's clock
		return fmt.Errorf("sending an event: %w", err)
	}
	if _, err := s.call.Write(b.Bytes()); err != nil {
		s.failed = true
		return fmt.Errorf("sending an event: %w", err)
	}
	if err := s.control.Flush(); err != nil {
		s.failed = true
		return fmt.Errorf("sending an event: %w", err)
	}
	return nil
}
