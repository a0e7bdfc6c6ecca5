package web

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"codeberg.org/dataverket/segl/internal/identity"
)

// A call is one request and its answer. It is the ResponseWriter that handlers write to.
type call struct {
	http.ResponseWriter
	server *Server
	r      *http.Request
	whole  context.Context // of r before it had a deadline: for streams
	peer   *peer
	id     string
	begun  time.Time

	route  *mounted // nil until one is found
	params []string
	few    [6]string // room for params
	who    identity.Caller

	status int // 0 until the header has been written
	octets int64
	err    error // for the log
	kind   string
}

// ServeHTTP serves one request: it names it, routes it, bounds it, and writes it down.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c := &call{ResponseWriter: w, server: s, begun: s.now(), id: requestID(r)}
	c.peer, _ = r.Context().Value(peerKey{}).(*peer)
	if c.peer == nil {
		c.peer = &peer{}
	}
	ctx, cancel := context.WithTimeout(r.Context(), s.timeout)
	defer cancel()
	c.r, c.whole = r.WithContext(ctx), r.Context()
	h := w.Header()
	h["X-Request-Id"] = []string{c.id}
	h["X-Content-Type-Options"] = noSniff
	defer c.finish()
	if !known(r.Method) {
		c.fail(&Fault{
			Status: http.StatusNotImplemented, Name: "unknown-method", Title: "The method is not known here",
			Detail: fmt.Sprintf("%.20q is no method of this service", r.Method), // RFC 9110 §15.6.2
		})
		return
	}
	s.router.ServeHTTP(c, c.r)
}

var noSniff = []string{"nosniff"}

func known(method string) bool {
	for _, m := range methods {
		if m == method {
			return true
		}
	}
	return false
}

// requestID takes over the client's name for its request if it is harmless, else makes one.
func requestID(r *http.Request) string {
	const few, most = 8, 64
	id := r.Header.Get("X-Request-Id")
	if len(id) >= few && len(id) <= most && strings.Trim(id, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.") == "" {
		return id
	}
	return rand.Text()
}

// serve runs the route that was found.
func (c *call) serve(m *mounted) {
	c.route = m
	if err := c.name(m.Access); err != nil {
		c.fail(err)
		return
	}
	if err := c.gate(m); err != nil {
		c.fail(err)
		return
	}
	c.behindWall()
	if err := m.Handler.serve(c); err != nil {
		c.fail(err)
	}
}

// behindWall gives the handler a context that says whose data it sees.
func (c *call) behindWall() {
	if wall := c.server.wall; wall != nil {
		c.whole = wall(c.whole, c.who, c.r.URL.Path)
		ctx := wall(c.r.Context(), c.who, c.r.URL.Path)
		c.r = c.r.WithContext(ctx)
	}
}

// answer encodes out. The encoder writes once, when all of it is encoded, and the header goes then: an answer that
// cannot be encoded is still a 500.
func (c *call) answer(out any) error {
	h := c.Header()
	h["Cache-Control"] = noStore // answers name what is certified, or carry a token
	if x, ok := out.(interface{ Header(http.Header) }); ok {
		x.Header(h)
	}
	if x, ok := out.(interface{ Cause() error }); ok {
		c.err = x.Cause()
	}
	if _, none := out.(Nothing); none {
		c.WriteHeader(max(c.route.Status, http.StatusNoContent))
		return nil
	}
	h["Content-Type"] = []string{"application/json"}
	e := json.NewEncoder(c)
	e.SetEscapeHTML(false)
	return e.Encode(out)
}

// fail answers with the problem that err is.
func (c *call) fail(err error) {
	var table Table
	if c.route != nil {
		table = c.route.table
	}
	p, expected := table.Explain(err)
	c.kind = strings.TrimPrefix(p.Type, ProblemPrefix)
	if !expected || p.Status >= http.StatusInternalServerError {
		c.err = err
	}
	if c.status != 0 || errors.Is(err, context.Canceled) && c.r.Context().Err() != nil {
		c.err = err // too late to say, or nobody is there to hear
		return
	}
	if seconds, ok := RetryAfter(err); ok || p.after > 0 {
		c.Header().Set("Retry-After", strconv.Itoa(max(seconds, p.after)))
	} else if p.Status == http.StatusServiceUnavailable || p.Status == http.StatusTooManyRequests {
		c.Header().Set("Retry-After", "1") // RFC 9110 §15.6.4: whoever says 503 may say when; ours always do
	}
	p.Instance = InstanceOf(c.id)
	if err := WriteProblem(c, p.Status, p); err != nil && c.err == nil {
		c.err = err
	}
}

// WriteHeader notes the status and sends it.
func (c *call) WriteHeader(status int) {
	if c.status == 0 && status >= http.StatusOK {
		c.status = status
	}
	c.ResponseWriter.WriteHeader(status)
}

// Write sends the header, if nobody has, with the status that the route declares for success.
func (c *call) Write(b []byte) (int, error) {
	if c.status == 0 {
		status := http.StatusOK
		if c.route != nil && c.route.Status != 0 {
			status = c.route.Status
		}
		c.WriteHeader(status)
	}
	n, err := c.ResponseWriter.Write(b)
	c.octets += int64(n)
	return n, err
}

// Unwrap serves http.ResponseController.
func (c *call) Unwrap() http.ResponseWriter { return c.ResponseWriter }

// finish turns a panic into a 500 and writes the request down: one line, one observation.
func (c *call) finish() {
	if v := recover(); v != nil {
		if v == http.ErrAbortHandler { //nolint:errorlint // the value that net/http compares with ==
			panic(v)
		}
		c.fail(&panicked{v, debug.Stack()})
	}
	switch {
	case c.status == 0 && c.err != nil:
		c.status = statusGone
	case c.status == 0:
		c.status = http.StatusOK
	}
	elapsed := c.server.now().Sub(c.begun)
	route := "none"
	if c.route != nil {
		route = c.route.Path
		c.route.seen.observe(c.status, elapsed)
	} else {
		c.server.strays.observe(c.status, elapsed)
	}
	c.log(route, elapsed)
}

// statusGone is what the log says of a request whose client left before there was an answer.
const statusGone = 499

func (c *call) log(route string, elapsed time.Duration) {
	level := c.server.level
	if c.err != nil && c.status != statusGone {
		level = slog.LevelError
	}
	ctx := context.Background()
	if !c.server.log.Enabled(ctx, level) {
		return
	}
	attrs := make([]slog.Attr, 0, 11) //nolint:mnd // as many as there may be
	attrs = append(attrs, slog.String("listener", c.server.name), slog.String("method", method(c.r.Method)), slog.String("route", route),
		slog.Int("status", c.status), slog.Duration("elapsed", elapsed), slog.String("request", c.id),
		slog.Int64("bytes", c.octets), slog.String("remote", c.peer.text), slog.String("actor", c.who.Actor))
	if c.kind != "" {
		attrs = append(attrs, slog.String("problem", c.kind))
	}
	if c.err != nil {
		attrs = append(attrs, slog.Any("err", c.err))
	}
	c.server.log.LogAttrs(ctx, level, "request", attrs...)
}

// method keeps strangers' words out of the log.
func method(m string) string {
	if known(m) {
		return m
	}
	return "other"
}

// panicked is what a handler panicked with, and where.
type panicked struct {
	value any
	stack []byte
}

func (p *panicked) Error() string { return fmt.Sprintf("panic: %v\n%s", p.value, p.stack) }
