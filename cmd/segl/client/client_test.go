package client_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"codeberg.org/dataverket/segl/cmd/segl/client"
)

// A peer answers as scripted, one step a request; the last is repeated.
type peer struct {
	*httptest.Server
	asked  atomic.Int32
	waited []time.Duration
}

type step func(w http.ResponseWriter, r *http.Request)

func newPeer(t *testing.T, steps ...step) (*peer, *client.Client) {
	t.Helper()
	p := &peer{}
	p.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n := int(p.asked.Add(1))
		steps[min(n, len(steps))-1](w, r)
	}))
	p.Config.ErrorLog = nil
	t.Cleanup(p.Close)
	roots := x509.NewCertPool()
	roots.AddCert(p.Certificate())
	return p, p.client(t, client.Config{URL: p.URL, Roots: roots})
}

// client makes a client that notes its waits and does not wait.
func (p *peer) client(t *testing.T, c client.Config) *client.Client {
	t.Helper()
	c.Wait = func(ctx context.Context, d time.Duration) error {
		p.waited = append(p.waited, d)
		return ctx.Err()
	}
	made, err := client.New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(made.Close)
	return made
}

func answer(status int, body string, header ...string) step {
	return func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i+1 < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(status)
		io.WriteString(w, body) //nolint:errcheck // a test's peer
	}
}

func hangUp(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }

var (
	busy = answer(503, `{"type":"urn:segl:problem:unavailable","title":"Busy","remedy":"wait"}`, "Content-Type", "application/problem+json", "Retry-After", "2")
	fine = answer(200, `{"is":"fine"}`)
	get  = client.Request{Method: http.MethodGet, Path: "/x"}
	post = client.Request{Method: http.MethodPost, Path: "/x", Body: map[string]string{"a": "b"}}
)

func TestTemporaryTroubleIsAskedAgainAsLateAsTheServerSays(t *testing.T) {
	p, c := newPeer(t, busy, busy, fine)
	var out struct{ Is string }
	if err := c.Do(t.Context(), get, &out); err != nil || out.Is != "fine" {
		t.Fatalf("%v, %v", out, err)
	}
	if len(p.waited) != 2 {
		t.Fatalf("waited %v", p.waited)
	}
	for _, d := range p.waited {
		if d < 2*time.Second || d > 3*time.Second {
			t.Errorf("waited %s after Retry-After: 2", d)
		}
	}
}

func TestAskingAgainEnds(t *testing.T) {
	p, c := newPeer(t, busy)
	err := c.Do(t.Context(), get, nil)
	if problem, ok := errors.AsType[*client.Problem](err); !ok || problem.Status != 503 || problem.Remedy != "wait" {
		t.Fatalf("got %v", err)
	}
	if n := p.asked.Load(); n != 6 {
		t.Errorf("asked %d times", n)
	}
}

func TestOnlyWhatMayBeRepeatedIsRepeated(t *testing.T) {
	late := answer(503, "", "Retry-After", "3600")
	refused := answer(403, `{"type":"urn:segl:problem:policy-refused","title":"No","detail":"never"}`, "Content-Type", "application/problem+json")
	keyed, idempotent, once := post, post, get
	keyed.Key, idempotent.Idempotent, once.Once = "k", true, true
	for name, c := range map[string]struct {
		first step
		ask   client.Request
		times int32
	}{
		"a write with a key after 503":          {busy, keyed, 2},
		"an idempotent write after 503":         {busy, idempotent, 2},
		"a bare write after 503":                {busy, post, 1},
		"a read after a lost answer":            {hangUp, get, 2},
		"a write with a key, its answer lost":   {hangUp, keyed, 2},
		"an idempotent write, its answer lost":  {hangUp, idempotent, 2},
		"a bare write, its answer lost":         {hangUp, post, 1},
		"a read that is asked once":             {busy, once, 1},
		"a refusal":                             {refused, get, 1},
		"a server that wants an hour":           {late, get, 1},
		"a failure that says nothing about now": {answer(500, ""), get, 1},
		"a redirect":                            {answer(302, "", "Location", "/y"), get, 1},
	} {
		t.Run(name, func(t *testing.T) {
			p, cl := newPeer(t, c.first, fine)
			err := cl.Do(t.Context(), c.ask, nil)
			// net/http may repeat a request by itself on a connection that was closed before an answer, where that is safe.
			if n := p.asked.Load(); n != c.times || (err == nil) != (c.times > 1) {
				t.Errorf("asked %d times, %v; want %d", n, err, c.times)
			}
		})
	}
}

func TestProblemsComeBackWhole(t *testing.T) {
	_, c := newPeer(t, answer(409, `{"type":"urn:segl:problem:already-done","title":"Done","status":200,"detail":"by another","instance":"urn:segl:request:r","rule":"one","remedy":"none"}`,
		"Content-Type", "application/problem+json; charset=utf-8"))
	err := c.Do(t.Context(), get, nil)
	p, ok := errors.AsType[*client.Problem](err)
	if !ok || p.Status != 409 || p.Rule != "one" || p.Instance == "" || err.Error() != "Done: by another" {
		t.Fatalf("got %+v, %v", p, err)
	}
	if !client.Named(err, "already-done") || client.Named(err, "done") || !client.Definite(err) {
		t.Error("it is definite, and named already-done")
	}
}

func TestWhatIsNoProblemIsSaidByItsStatus(t *testing.T) {
	for name, s := range map[string]step{
		"html":              answer(404, "<html>", "Content-Type", "text/html"),
		"malformed":         answer(404, "{", "Content-Type", "application/problem+json"),
		"without a title":   answer(404, "{}", "Content-Type", "application/problem+json"),
		"of the wrong type": answer(404, `{"title":"x"}`, "Content-Type", "application/json"),
	} {
		t.Run(name, func(t *testing.T) {
			_, c := newPeer(t, s)
			if err := c.Do(t.Context(), get, nil); err == nil || err.Error() != "the server answered 404 Not Found" {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestDefiniteIsOnlyWhatWasUnderstoodAndRefused(t *testing.T) {
	for status, want := range map[int]bool{400: true, 403: true, 409: true, 408: false, 429: false, 500: false, 503: false} {
		if got := client.Definite(fmt.Errorf("asking: %w", &client.Problem{Status: status})); got != want {
			t.Errorf("%d: %v", status, got)
		}
	}
	if client.Definite(&client.Unreachable{URL: "https://x", Err: io.EOF}) {
		t.Error("a lost answer is not definite")
	}
}

func TestNobodyElseIsTrusted(t *testing.T) {
	p, _ := newPeer(t, fine)
	for name, roots := range map[string]*x509.CertPool{"no roots": nil, "other roots": x509.NewCertPool()} {
		c := p.client(t, client.Config{URL: p.URL, Roots: roots})
		err := c.Do(t.Context(), get, nil)
		u, ok := errors.AsType[*client.Unreachable](err)
		if !ok || !strings.Contains(u.Hint(), "SEGL_ROOT") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if p.asked.Load() != 0 {
		t.Error("it was asked")
	}
}

func TestOlderTLSIsRefused(t *testing.T) {
	p := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("it was asked") }))
	p.TLS = &tls.Config{MaxVersion: tls.VersionTLS12} //nolint:gosec // it is to be refused
	p.StartTLS()
	t.Cleanup(p.Close)
	roots := x509.NewCertPool()
	roots.AddCert(p.Certificate())
	c, err := client.New(client.Config{URL: p.URL, Roots: roots})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Do(t.Context(), get, nil); err == nil {
		t.Error("it was spoken to")
	}
}

func TestURLsThatLeadNowhereAreRefused(t *testing.T) {
	for _, u := range []string{"", "localhost:8443", "ftp://h", "https://", "https://u:p@h", "https://h/?q=1", "https://h\n"} {
		if _, err := client.New(client.Config{URL: u}); err == nil {
			t.Errorf("%q was taken", u)
		}
	}
}

func TestTheKeyAndBodyTravel(t *testing.T) {
	_, c := newPeer(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		if r.Header.Get("Idempotency-Key") != "k" || r.Header.Get("Content-Type") != "application/json" || string(b) != `{"a":"b"}` || r.URL.RawQuery != "q=1" {
			t.Errorf("got %v %s %s", r.Header, r.URL, b)
		}
		fine(w, r)
	})
	ask := post
	ask.Key, ask.Query = "k", url.Values{"q": {"1"}}
	if err := c.Do(t.Context(), ask, nil); err != nil {
		t.Fatal(err)
	}
}

func TestListFetchesPagesAsTheyAreAskedFor(t *testing.T) {
	page := func(next string, items ...string) step {
		return answer(200, fmt.Sprintf(`{"items":["%s"],"next_page_token":%q}`, strings.Join(items, `","`), next))
	}
	empty := answer(200, `{"items":[],"next_page_token":"m"}`)
	endless := answer(200, `{"items":["z"],"more":false,"next_page_token":"always"}`)
	for name, c := range map[string]struct {
		steps []step
		limit int
		want  string
		asked int32
	}{
		"until there is no next":             {[]step{page("n", "a", "b"), page("", "c")}, 0, "abc", 2},
		"beyond an empty page":               {[]step{page("n", "a"), empty, page("", "b")}, 0, "ab", 3},
		"until the server goes on nowhere":   {[]step{page("n", "a"), empty, empty}, 0, "a", 3},
		"until there is no more now":         {[]step{page("n", "a"), endless}, 0, "az", 2},
		"no further than the limit":          {[]step{page("n", "a", "b"), page("n", "c", "d")}, 2, "ab", 1},
		"an empty list":                      {[]step{answer(200, `{"items":[]}`)}, 0, "", 1},
		"up to what cannot be read":          {[]step{page("n", "a"), answer(200, `{"items":{}}`)}, 0, "a!", 2},
		"up to a refusal":                    {[]step{page("n", "a"), answer(404, "")}, 0, "a!", 2},
		"a list of nothing that is a member": {[]step{answer(200, `{}`)}, 0, "", 1},
	} {
		t.Run(name, func(t *testing.T) {
			p, cl := newPeer(t, c.steps...)
			got := ""
			for v, err := range client.List[string](t.Context(), cl, client.Listing{Path: "/l", Member: "items", Limit: c.limit}) {
				if err != nil {
					v = "!"
				}
				got += v
			}
			if got != c.want || p.asked.Load() != c.asked {
				t.Errorf("got %q after %d requests, want %q after %d", got, p.asked.Load(), c.want, c.asked)
			}
		})
	}
}

func TestWhoStopsReadingAsksForNoMore(t *testing.T) {
	p, c := newPeer(t, answer(200, `{"items":["a","b"],"next_page_token":"n"}`))
	for range client.List[string](t.Context(), c, client.Listing{Path: "/l", Member: "items"}) {
		break
	}
	if n := p.asked.Load(); n != 1 {
		t.Errorf("asked %d times", n)
	}
}
