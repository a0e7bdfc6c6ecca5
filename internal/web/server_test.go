package web_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/web"
)

// client is for plain HTTP.
var client = &http.Client{Timeout: 10 * time.Second}

func get(t testing.TB, c *http.Client, url string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	must(t, err)
	resp, err := c.Do(req)
	must(t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	must(t, err)
	return resp.StatusCode, string(b)
}

// A connection lives longer than the judgement it began with.
func TestACallerIsNamedAnewWhenTimeOrTrustHasMovedOn(t *testing.T) {
	var ahead atomic.Int64
	var anchors atomic.Pointer[x509.CertPool]
	r := populated(t, func(c *web.Config) {
		anchors.Store(c.Clients.Roots())
		c.Clients.Roots = anchors.Load
		c.Now = func() time.Time { return now.Add(time.Duration(ahead.Load())) }
	})
	c := r.as(t, "holder")
	ask := func(want int, says string) {
		t.Helper()
		if status, body := get(t, c, r.base+"/v1/notes"); status != want || !strings.Contains(body, says) {
			t.Errorf("%d %s, want %d saying %q", status, body, want, says)
		}
	}
	ask(http.StatusOK, "size")
	ahead.Store(int64(2 * time.Hour))
	ask(http.StatusUnauthorized, "not valid now")
	ahead.Store(0)
	other := newCA(t)
	anchors.Store(other.pool)
	ask(http.StatusUnauthorized, "not trusted here")
	anchors.Store(r.ca.pool)
	ask(http.StatusOK, "size")
}

// A resumed session has shown its certificate in an earlier connection; it is verified again all the same.
func TestAResumedSessionIsVerifiedAgain(t *testing.T) {
	var anchors atomic.Pointer[x509.CertPool]
	r := populated(t, func(c *web.Config) {
		anchors.Store(c.Clients.Roots())
		c.Clients.Roots = anchors.Load
	})
	c := r.as(t, "holder")
	tr, ok := c.Transport.(*http.Transport)
	if !ok {
		t.Fatal("the client has no transport of its own")
	}
	tr.TLSClientConfig.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	ask := func() (status int, resumed bool) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, r.base+"/v1/notes", nil)
		must(t, err)
		resp, err := c.Do(req)
		must(t, err)
		_, err = io.Copy(io.Discard, resp.Body)
		must(t, err)
		_ = resp.Body.Close()
		tr.CloseIdleConnections()
		return resp.StatusCode, resp.TLS.DidResume
	}
	ask()
	if status, resumed := ask(); status != http.StatusOK || !resumed {
		t.Errorf("%d, resumed %t: want a resumed session to know its caller", status, resumed)
	}
	anchors.Store(newCA(t).pool)
	if status, resumed := ask(); status != http.StatusUnauthorized || !resumed {
		t.Errorf("%d, resumed %t: want 401 once the anchors have changed", status, resumed)
	}
}

func TestTLSBelowTheMinimumIsRefused(t *testing.T) {
	dial := func(r *rig, version uint16) error {
		conn, err := tls.Dial("tcp", strings.TrimPrefix(r.base, "https://"), &tls.Config{RootCAs: r.ca.pool, Time: clock, MinVersion: version, MaxVersion: version})
		if err == nil {
			_ = conn.Close()
		}
		return err
	}
	r := newRig(t, nil)
	if err := dial(r, tls.VersionTLS12); err == nil {
		t.Error("TLS 1.2 was taken by default")
	}
	if err := dial(r, tls.VersionTLS13); err != nil {
		t.Error(err)
	}
	r = newRig(t, func(c *web.Config) { c.TLS.MinVersion = tls.VersionTLS12 })
	if err := dial(r, tls.VersionTLS12); err != nil {
		t.Error(err)
	}
	_, err := web.NewServer(web.Config{
		Name: "x", Log: slog.New(slog.DiscardHandler), Metrics: web.NewMetrics(prometheus.NewRegistry()), Now: clock, TLS: &web.TLS{MinVersion: tls.VersionTLS11},
	})
	if err == nil {
		t.Error("TLS 1.1 may be configured")
	}
}

func TestAHeaderTooLargeIsRefused(t *testing.T) {
	r := populated(t, nil)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, r.base+"/open/x", nil)
	must(t, err)
	req.Header.Set("X-Long", strings.Repeat("x", 64<<10))
	resp, err := r.as(t, "nobody").Do(req)
	must(t, err)
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("status %d, want 431", resp.StatusCode)
	}
}

// A client that connects and says nothing loses its place to one that has something to ask.
func TestSilentConnectionsMakeRoom(t *testing.T) {
	r := populated(t, func(c *web.Config) { c.MaxConnections = 4 })
	var silent []net.Conn
	for range 12 {
		conn, err := net.Dial("tcp", strings.TrimPrefix(r.base, "https://"))
		must(t, err)
		defer conn.Close()
		silent = append(silent, conn)
	}
	if status, _ := get(t, r.as(t, "holder"), r.base+"/v1/notes"); status != http.StatusOK {
		t.Errorf("status %d among silent connections", status)
	}
	must(t, silent[0].SetReadDeadline(time.Now().Add(5*time.Second)))
	if _, err := silent[0].Read(make([]byte, 1)); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the longest silent connection is open still: %v", err)
	}
	if v := gathered(t, r.metrics, "segl_http_connections_evicted_total"); v < 8 {
		t.Errorf("%v evicted, want 8 or more", v)
	}
	if v := gathered(t, r.metrics, "segl_http_connections"); v > 4 {
		t.Errorf("%v connections, want 4 at most", v)
	}
}

// Where all are at work the newcomer is closed, and those at work are not.
func TestConnectionsAtWorkKeepTheirPlace(t *testing.T) {
	begun, end := make(chan struct{}), make(chan struct{})
	s, ln := plain(t, web.Config{MaxConnections: 1}, web.Door{Routes: []web.Route{
		{Method: "GET", Path: "/slow", Access: web.Anyone, Handler: web.Raw(
			func(w http.ResponseWriter, _ *http.Request, _ identity.Caller) error {
				close(begun)
				<-end
				_, err := io.WriteString(w, "done")
				return err
			})},
	}})
	defer serve(t, s, ln)()
	first, err := net.Dial("tcp", ln.Addr().String())
	must(t, err)
	defer first.Close()
	_, err = io.WriteString(first, "GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
	must(t, err)
	<-begun
	second, err := net.Dial("tcp", ln.Addr().String())
	must(t, err)
	defer second.Close()
	if _, err := second.Read(make([]byte, 1)); err == nil {
		t.Error("the newcomer was let in")
	}
	close(end)
	resp, err := http.ReadResponse(bufio.NewReader(first), nil)
	must(t, err)
	defer resp.Body.Close()
	if b, err := io.ReadAll(resp.Body); err != nil || string(b) != "done" {
		t.Errorf("the one at work got %q, %v", b, err)
	}
}

func plain(t *testing.T, cfg web.Config, doors ...web.Door) (*web.Server, net.Listener) {
	t.Helper()
	orDefault := func() {
		if cfg.Name == "" {
			cfg.Name = "public"
		}
		if cfg.Log == nil {
			cfg.Log = slog.New(slog.DiscardHandler)
		}
		cfg.Now = time.Now
		if cfg.Metrics == nil {
			cfg.Metrics = web.NewMetrics(prometheus.NewRegistry())
		}
	}
	orDefault()
	s, err := web.NewServer(cfg, doors...)
	must(t, err)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	return s, ln
}

// serve serves until the returned function is called.
func serve(t *testing.T, s *web.Server, ln net.Listener) (stop func()) {
	done := make(chan error, 1)
	go func() { done <- s.Serve(ln) }()
	return func() {
		if err := s.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func gathered(t *testing.T, g prometheus.Gatherer, name string) float64 {
	t.Helper()
	families, err := g.Gather()
	must(t, err)
	for _, f := range families {
		if f.GetName() == name {
			m := f.GetMetric()[0]
			return m.GetGauge().GetValue() + m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	t.Fatalf("no measure is called %s", name)
	return 0
}

// What is under way when the process is told to end is answered; readiness says no first and can be read to the end.
func TestRunDrains(t *testing.T) {
	begun, end := make(chan struct{}), make(chan struct{})
	metrics := web.NewMetrics(prometheus.NewRegistry())
	public, ln := plain(t, web.Config{Metrics: metrics}, web.Door{Routes: []web.Route{
		{Method: "GET", Path: "/slow", Access: web.Anyone, Handler: web.Raw(
			func(w http.ResponseWriter, _ *http.Request, _ identity.Caller) error {
				close(begun)
				<-end
				_, err := io.WriteString(w, "done")
				return err
			})},
	}})
	health := web.NewHealth()
	private, privateLn := plain(t, web.Config{Name: "private", Metrics: metrics}, web.Private(health, prometheus.NewRegistry()))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- web.Run(ctx, health, web.Drain{}, web.Listening{Server: public, Listener: ln}, web.Listening{Server: private, Listener: privateLn})
	}()
	answer := make(chan string, 1)
	go func() {
		_, body := get(t, client, "http://"+ln.Addr().String()+"/slow")
		answer <- body
	}()
	<-begun
	if status, _ := get(t, client, "http://"+privateLn.Addr().String()+"/readyz"); status != http.StatusOK {
		t.Errorf("readiness is %d before the end", status)
	}
	cancel()
	for ready := true; ready; { // the flag is set by another goroutine; the deadline of the test bounds this
		status, body := get(t, client, "http://"+privateLn.Addr().String()+"/readyz")
		ready = status == http.StatusOK
		if !ready && !strings.Contains(body, "about to end") {
			t.Errorf("readiness says no, and not why: %s", body)
		}
	}
	close(end)
	if body := <-answer; body != "done" {
		t.Errorf("the request under way got %q", body)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, err := net.Dial("tcp", ln.Addr().String()); err == nil {
		t.Error("still listening after the end")
	}
}

func TestRunEndsWhenOneListenerFails(t *testing.T) {
	metrics := web.NewMetrics(prometheus.NewRegistry())
	broken, brokenLn := plain(t, web.Config{Metrics: metrics})
	other, otherLn := plain(t, web.Config{Name: "private", Metrics: metrics})
	must(t, brokenLn.Close())
	err := web.Run(t.Context(), web.NewHealth(), web.Drain{}, web.Listening{Server: broken, Listener: brokenLn}, web.Listening{Server: other, Listener: otherLn})
	if err == nil || !strings.Contains(err.Error(), "serving public") {
		t.Errorf("ended with %v, want what failed", err)
	}
}

func TestRunCutsOffWhatTakesTooLong(t *testing.T) {
	begun, end := make(chan struct{}), make(chan struct{})
	s, ln := plain(t, web.Config{}, web.Door{Routes: []web.Route{
		{Method: "GET", Path: "/stuck", Access: web.Anyone, Handler: web.Raw(
			func(http.ResponseWriter, *http.Request, identity.Caller) error {
				close(begun)
				<-end
				return nil
			})},
	}})
	defer close(end)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- web.Run(ctx, web.NewHealth(), web.Drain{Within: time.Millisecond}, web.Listening{Server: s, Listener: ln})
	}()
	conn, err := net.Dial("tcp", ln.Addr().String())
	must(t, err)
	defer conn.Close()
	_, err = io.WriteString(conn, "GET /stuck HTTP/1.1\r\nHost: x\r\n\r\n")
	must(t, err)
	<-begun
	cancel()
	if err := <-done; err == nil || !strings.Contains(err.Error(), "cut off") {
		t.Errorf("the end says %v, want that requests were cut off", err)
	}
}

func TestAHandlerHasADeadline(t *testing.T) {
	s, ln := plain(t, web.Config{HandlerTimeout: time.Millisecond}, web.Door{Routes: []web.Route{
		{Method: "GET", Path: "/slow", Access: web.Anyone, Handler: web.JSON(
			func(ctx context.Context, _ identity.Caller, _ struct{}) (web.Nothing, error) {
				<-ctx.Done()
				return web.Nothing{}, ctx.Err()
			})},
	}})
	defer serve(t, s, ln)()
	status, body := get(t, client, "http://"+ln.Addr().String()+"/slow")
	if status != http.StatusServiceUnavailable || !strings.Contains(body, "urn:segl:problem:too-slow") {
		t.Errorf("%d %s", status, body)
	}
}

func TestReadinessNamesWhatIsNotWell(t *testing.T) {
	down := errors.New("connection refused")
	var well atomic.Bool
	health := web.NewHealth(
		web.Check{Name: "postgres", Probe: func(context.Context) error {
			if well.Load() {
				return nil
			}
			return down
		}},
		web.Check{Name: "key acme-1", Probe: func(context.Context) error { return nil }},
	)
	registry := prometheus.NewRegistry()
	s, ln := plain(t, web.Config{Name: "private", Metrics: web.NewMetrics(registry)}, web.Private(health, registry))
	defer serve(t, s, ln)()
	base := "http://" + ln.Addr().String()
	if status, body := get(t, client, base+"/readyz"); status != 503 ||
		strings.TrimSpace(body) != `{"ready":false,"checks":[{"name":"postgres","ok":false,"why":"connection refused"},{"name":"key acme-1","ok":true}]}` {
		t.Errorf("%d %s", status, body)
	}
	if status, _ := get(t, client, base+"/healthz"); status != 200 {
		t.Errorf("a process that lacks Postgres is alive: got %d", status)
	}
	well.Store(true)
	var got web.Readiness
	status, body := get(t, client, base+"/readyz")
	must(t, json.Unmarshal([]byte(body), &got))
	if status != 200 || !got.Ready {
		t.Errorf("%d %s", status, body)
	}
	if status, body := get(t, client, base+"/metrics"); status != 200 ||
		!strings.Contains(body, `segl_http_request_seconds_count{listener="private",method="GET",route="/readyz",status="2xx"} 1`) {
		t.Errorf("%d %s", status, body)
	}
	for _, path := range []string{"/debug/pprof/", "/debug/pprof/goroutine?debug=1", "/debug/pprof/cmdline"} {
		if status, _ := get(t, client, base+path); status != 200 {
			t.Errorf("%s is %d", path, status)
		}
	}
}

func TestRoutesThatCannotBeServedPanic(t *testing.T) {
	ok := web.Plain(http.NotFoundHandler())
	for name, routes := range map[string][]web.Route{
		"twice":                  {{Method: "GET", Path: "/a", Handler: ok}, {Method: "GET", Path: "/a", Handler: ok}},
		"two names of one place": {{Method: "GET", Path: "/a/{x}", Handler: ok}, {Method: "POST", Path: "/a/{y}", Handler: ok}},
		"no slash":               {{Method: "GET", Path: "a", Handler: ok}},
		"part of a segment":      {{Method: "GET", Path: "/a/{x}.crl", Handler: ok}},
		"a verb in the middle":   {{Method: "GET", Path: "/a/{x}:v/b", Handler: ok}},
		"a rest in the middle":   {{Method: "GET", Path: "/a/{x...}/b", Handler: ok}},
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("was mounted")
				}
			}()
			plain(t, web.Config{}, web.Door{Routes: routes})
		})
	}
}

func TestRequestsThatCannotBeBoundPanic(t *testing.T) {
	for name, make := range map[string]func(){
		"a parameter the body could set": func() {
			handler[struct {
				A string `path:"a"`
			}]()
		},
		"a field from nowhere": func() { handler[struct{ A string }]() },
		"a number without bounds": func() {
			handler[struct {
				A int `json:"-" query:"a"`
			}]()
		},
		"a type no text makes": func() {
			handler[struct {
				A []int `json:"-" query:"a"`
			}]()
		},
		"no struct": func() { handler[string]() },
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("was taken")
				}
			}()
			make()
		})
	}
}

func handler[Req any]() {
	web.JSON(func(context.Context, identity.Caller, Req) (web.Nothing, error) { return web.Nothing{}, nil })
}
