package web_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/web"
)

// A following asks for a stream of numbers.
type following struct {
	From int `json:"-" query:"from" minimum:"0" maximum:"9"`
}

// counting sends a number whenever tick gives one, and says at last why it ended.
func counting(tick <-chan int, why chan<- error) web.Door {
	return web.Door{Table: door().Table, Routes: []web.Route{{
		Method: http.MethodGet, Path: "/v1/numbers:follow", ID: "count",
		Handler: web.Events(func(ctx context.Context, _ identity.Caller, in following, s *web.Stream) error {
			if in.From == 9 {
				return &web.Fault{Status: http.StatusConflict, Name: "no-nine", Title: "Not from nine"}
			}
			if err := s.Send(web.Event{ID: fmt.Sprint(in.From)}); err != nil {
				why <- err
				return err
			}
			for {
				select {
				case n := <-tick:
					if err := s.Send(web.Event{ID: fmt.Sprint(n), Name: "number", Data: []byte(`"` + strings.Repeat("x", n) + `"`)}); err != nil {
						why <- err
						return err
					}
				case <-ctx.Done():
					err := context.Cause(ctx)
					if serr := s.SendLast(web.Event{Name: "end", Data: []byte("{}")}); serr != nil {
						err = serr
					}
					why <- err
					return err
				}
			}
		}),
	}}}
}

// short are deadlines that a stream has to outlive.
func short(c *web.Config) {
	c.HandlerTimeout, c.ReadTimeout, c.WriteTimeout, c.Recheck = 50*time.Millisecond, 60*time.Millisecond, 70*time.Millisecond, 20*time.Millisecond
}

// clients are one that speaks HTTP/1.1 and one that speaks HTTP/2.
var clients = []string{"holder", "holder over h2"}

func TestAStreamOutlivesTheDeadlinesOfRequestsAndEndsWhenTheServerDrains(t *testing.T) {
	for _, who := range clients {
		t.Run(who, func(t *testing.T) {
			tick, why := make(chan int), make(chan error, 1)
			r := populated(t, short, counting(tick, why))
			resp := open(t.Context(), t, r.as(t, who), r.base+"/v1/numbers:follow?from=3") //nolint:bodyclose // open closes it
			if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "text/event-stream" || (resp.ProtoMajor == 2) != (who != "holder") {
				t.Fatalf("%s, %s, %s", resp.Status, resp.Header.Get("Content-Type"), resp.Proto)
			}
			lines := bufio.NewScanner(resp.Body)
			expect(t, lines, "id: 3", "")
			for n := range 4 {
				<-time.After(40 * time.Millisecond) // in all longer than every deadline
				tick <- n + 4
				expect(t, lines, fmt.Sprintf("id: %d", n+4), "event: number", `data: "`+strings.Repeat("x", n+4)+`"`, "")
			}
			done := make(chan error, 1)
			go func() { done <- r.server.Shutdown(t.Context()) }()
			expect(t, lines, "event: end", "data: {}", "")
			if lines.Scan() {
				t.Errorf("after the end came %q", lines.Text())
			}
			if err := <-done; err != nil {
				t.Error(err)
			}
			if err := <-why; !errors.Is(err, web.ErrDraining) {
				t.Errorf("it ended with %v", err)
			}
		})
	}
}

func TestAStreamIsRefusedLikeAnyRequest(t *testing.T) {
	r := populated(t, short, counting(nil, nil))
	for path, want := range map[string]int{
		"/v1/numbers:follow?from=9": http.StatusConflict, "/v1/numbers:follow?from=10": http.StatusBadRequest, "/v1/numbers:follow?to=1": http.StatusBadRequest,
	} {
		resp := open(t.Context(), t, r.as(t, "holder"), r.base+path) //nolint:bodyclose // open closes it
		if resp.StatusCode != want || resp.Header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s: %d %s, want %d", path, resp.StatusCode, resp.Header.Get("Content-Type"), want)
		}
	}
	for _, who := range []string{"nobody", "expired", "revoked", "stranger"} {
		if resp := open(t.Context(), t, r.as(t, who), r.base+"/v1/numbers:follow"); resp.StatusCode/100 != 4 { //nolint:bodyclose // open closes it
			t.Errorf("%s: %d", who, resp.StatusCode)
		}
	}
}

func TestAStreamEndsWhenItsCallerIsNoLongerAdmitted(t *testing.T) {
	for name, turn := range map[string]func(out *atomic.Bool, ahead *atomic.Int64){
		"revoked": func(out *atomic.Bool, _ *atomic.Int64) { out.Store(true) },
		"expired": func(_ *atomic.Bool, ahead *atomic.Int64) { ahead.Store(int64(48 * time.Hour)) },
	} {
		t.Run(name, func(t *testing.T) {
			var out atomic.Bool
			var ahead atomic.Int64
			tick, why := make(chan int), make(chan error, 1)
			r := populated(t, func(c *web.Config) {
				short(c)
				c.Now = func() time.Time { return now.Add(time.Duration(ahead.Load())) }
				c.Clients.Admit = func(context.Context, identity.Caller) error {
					if out.Load() {
						return errRevoked
					}
					return nil
				}
			}, counting(tick, why))
			lines := bufio.NewScanner(open(t.Context(), t, r.as(t, "holder over h2"), r.base+"/v1/numbers:follow").Body)
			expect(t, lines, "id: 0", "")
			tick <- 1
			expect(t, lines, "id: 1", "event: number", `data: "x"`, "")
			turn(&out, &ahead)
			expect(t, lines, "event: end", "data: {}", "")
			if err := <-why; !errors.Is(err, web.ErrUnadmitted) {
				t.Errorf("it ended with %v", err)
			}
		})
	}
}

func TestAStreamEndsWithItsClient(t *testing.T) {
	for _, who := range clients {
		why := make(chan error, 1)
		r := populated(t, short, counting(nil, why))
		ctx, cancel := context.WithCancel(t.Context())
		resp := open(ctx, t, r.as(t, who), r.base+"/v1/numbers:follow")
		expect(t, bufio.NewScanner(resp.Body), "id: 0", "")
		cancel()
		if err := <-why; !errors.Is(err, context.Canceled) {
			t.Errorf("%s: it ended with %v", who, err)
		}
	}
}

func TestTheHeadOfAStreamEndsAtOnce(t *testing.T) {
	r := populated(t, short, counting(nil, nil))
	req, err := http.NewRequestWithContext(t.Context(), http.MethodHead, r.base+"/v1/numbers:follow", nil)
	must(t, err)
	resp, err := r.as(t, "holder").Do(req)
	must(t, err)
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "text/event-stream" {
		t.Errorf("%d %s", resp.StatusCode, resp.Header.Get("Content-Type"))
	}
}

func expect(t *testing.T, lines *bufio.Scanner, want ...string) {
	t.Helper()
	for _, w := range want {
		if !lines.Scan() || lines.Text() != w {
			t.Fatalf("the next line is %q (%v), want %q", lines.Text(), lines.Err(), w)
		}
	}
}

func open(ctx context.Context, t *testing.T, c *http.Client, url string) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	must(t, err)
	resp, err := c.Do(req)
	must(t, err)
	t.Cleanup(func() { resp.Body.Close() })
	return resp
}
