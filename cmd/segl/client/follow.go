package client

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// An Event is one server-sent event (WHATWG HTML §9.2). One without Data only says how far its sender is.
type Event struct {
	ID, Name string
	Data     []byte
}

// An Ended is a stream that its server has ended for good.
type Ended struct{ Reason, Detail string }

// Error says why.
func (e *Ended) Error() string { return "the server ended the stream: " + e.Detail }

// Bounds of following: a line's length, how long a stream may be silent, and how often in a row it is asked for in vain.
const (
	maxLine   = 1 << 20
	maxQuiet  = time.Minute
	maxFollow = 10
)

// Follow asks for a stream of events and hands each to take. When the stream breaks, or the server ends it for a while, it
// asks again from the last event on, so that take misses none and gets none twice. It ends with ctx, with an error of take,
// with a refusal, with an *Ended, or when asking again has been in vain too often.
func (c *Client) Follow(ctx context.Context, r Request, take func(Event) error) error {
	last := ""
	for vain := 0; ; vain++ {
		before := last
		err := c.stream(ctx, r, &last, take)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if last != before {
			vain = 0
		}
		var pause time.Duration
		if p, ok := errors.AsType[*Problem](err); ok {
			if p.Status != http.StatusServiceUnavailable && p.Status != http.StatusTooManyRequests {
				return err
			}
			pause = p.after
		} else if _, ok := errors.AsType[*Unreachable](err); !ok && err != nil {
			return err
		}
		if vain >= maxFollow {
			return err
		}
		if c.wait(ctx, max(pause, backoff(min(vain, maxAttempts)+1))) != nil {
			return context.Cause(ctx)
		}
	}
}

// stream reads one stream to its end. nil: come again.
func (c *Client) stream(ctx context.Context, r Request, last *string, take func(Event) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	quiet := time.AfterFunc(maxQuiet, cancel)
	defer quiet.Stop()
	req, err := c.request(ctx, r)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", "text/event-stream, application/problem+json")
	if *last != "" {
		req.Header.Set("Last-Event-ID", *last)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return c.unreachable(err)
	}
	defer resp.Body.Close() //nolint:errcheck // it was read as far as it interests
	if resp.StatusCode != http.StatusOK {
		body, err := io.ReadAll(io.LimitReader(resp.Body, maxLine))
		if err != nil {
			return c.unreachable(err)
		}
		return problem(resp, body)
	}
	err = readEvents(resp.Body, func(e Event) error {
		quiet.Reset(maxQuiet)
		if e.Name == "end" {
			return ended(e.Data)
		}
		if err := take(e); err != nil {
			return &taking{err}
		}
		if e.ID != "" {
			*last = e.ID
		}
		return nil
	})
	if t, ok := errors.AsType[*taking](err); ok {
		return t.err
	}
	if _, ok := errors.AsType[*Ended](err); ok || err == nil {
		return err
	}
	return c.unreachable(err)
}

// taking is an error of whoever takes events.
type taking struct{ err error }

func (t *taking) Error() string { return t.err.Error() }

// ended reads a stream's last event.
func ended(data []byte) error {
	var why struct {
		Reason, Detail string
		Resume         bool
	}
	if err := json.Unmarshal(data, &why); err != nil || why.Resume {
		return io.ErrUnexpectedEOF // as if it had broken: come again
	}
	return &Ended{why.Reason, why.Detail}
}

// readEvents parses a stream (WHATWG HTML §9.2.6) to its end, which is nil.
func readEvents(r io.Reader, take func(Event) error) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxLine)
	var e Event
	var some bool
	for lines.Scan() {
		line := lines.Text()
		if line == "" {
			if some {
				if err := take(e); err != nil {
					return err
				}
			}
			e, some = Event{}, false
			continue
		}
		name, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch name {
		case "id":
			e.ID, some = value, true
		case "event":
			e.Name, some = value, true
		case "data":
			if e.Data != nil {
				e.Data = append(e.Data, '\n')
			}
			e.Data, some = append(e.Data, value...), true
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("reading a stream: %w", err)
	}
	return nil // what has no empty line after it is not whole
}
