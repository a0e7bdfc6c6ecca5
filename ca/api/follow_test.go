package api_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"codeberg.org/dataverket/segl/ca/api"
	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/pkitest"
)

// A stream is an open stream of events.
type stream struct {
	t     *testing.T
	resp  *http.Response
	lines *bufio.Scanner
	last  string
	close context.CancelFunc
}

// open follows url as somebody, from last on unless that is empty.
func (r *rig) open(t *testing.T, as, url, last string) *stream {
	t.Helper()
	pair := r.certs[as]
	tr := &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{
		RootCAs: r.anchors, Time: r.Now, MinVersion: tls.VersionTLS13,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil },
	}}
	t.Cleanup(tr.CloseIdleConnections)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	must(t, err)
	if last != "" {
		req.Header.Set("Last-Event-ID", last)
	}
	resp, err := tr.RoundTrip(req)
	must(t, err)
	t.Cleanup(func() { resp.Body.Close() })
	return &stream{t: t, resp: resp, lines: bufio.NewScanner(resp.Body), close: cancel}
}

// next returns the next event's name and data; heartbeats only move last on.
func (s *stream) next() (name, data string) {
	s.t.Helper()
	for s.lines.Scan() {
		key, value, _ := strings.Cut(s.lines.Text(), ": ")
		switch key {
		case "id":
			s.last = value
		case "event":
			name = value
		case "data":
			data = value
		case "":
			if data != "" {
				return name, data
			}
		}
	}
	s.t.Fatalf("the stream ended: %v", s.lines.Err())
	return "", ""
}

// subjects returns the subjects of the next n facts.
func (s *stream) subjects(n int) string {
	s.t.Helper()
	var all []string
	for range n {
		name, data := s.next()
		var f api.Fact
		if err := json.Unmarshal([]byte(data), &f); err != nil || name != "fact" || f.ID != s.last {
			s.t.Fatalf("event %s %s: %v", name, data, err)
		}
		all = append(all, f.Subject)
	}
	return strings.Join(all, " ")
}

// note writes a fact down in a transaction of its own, or of the caller's.
func (r *rig) note(t *testing.T, tx pgx.Tx, path, subject string) {
	t.Helper()
	f := audit.Fact{At: r.Now(), Who: identity.System("test"), Scope: pkitest.Scope(path), What: "test.fact", Subject: subject}
	var err error
	if tx != nil {
		_, err = tx.Exec(t.Context(), audit.Insert, audit.Columns(f)...)
	} else {
		_, err = r.DB.Exec(t.Context(), audit.Insert, audit.Columns(f)...)
	}
	must(t, err)
}

const demoFacts = "/v1/tenants/demo/facts:follow?what=test.fact"

// Transactions commit in another order than they began. Whoever follows gets each fact once, and goes on where it was.
func TestAFollowerMissesNoFactThatCommitsLate(t *testing.T) {
	r := newRig(t)
	s := r.open(t, "demo tenant", r.service+demoFacts, "")
	if got := s.resp.Header.Get("Content-Type"); s.resp.StatusCode != http.StatusOK || got != "text/event-stream" {
		t.Fatalf("%d %s", s.resp.StatusCode, got)
	}
	r.note(t, nil, "demo", "first")
	if got := s.subjects(1); got != "first" {
		t.Fatalf("got %q", got)
	}
	slow, err := r.DB.Begin(t.Context())
	must(t, err)
	defer slow.Rollback(t.Context()) //nolint:errcheck // it was committed, or the test has failed
	r.note(t, slow, "demo", "slow")
	r.note(t, nil, "demo", "quick")
	s.close()
	again := r.open(t, "demo tenant", r.service+demoFacts, s.last)
	late := r.open(t, "operator", r.operator+"/v1/facts:follow?what=test.fact", s.last)
	r.note(t, nil, "other", "elsewhere")
	must(t, slow.Commit(t.Context()))
	r.note(t, nil, "demo/shop", "last")
	if got := again.subjects(3); got != "slow quick last" {
		t.Errorf("the tenant got %q", got)
	}
	if got := late.subjects(4); got != "slow quick elsewhere last" {
		t.Errorf("the operator got %q", got)
	}
}

func TestAFollowerSeesItsScopesAlone(t *testing.T) {
	r := newRig(t)
	for _, c := range []struct{ as, url string }{
		{"other tenant", r.service + demoFacts},
		{"demo", r.service + demoFacts}, // one environment's workload asks for the tenant
		{"demo tenant", r.service + "/v1/tenants/other/facts:follow"},
		{"demo tenant", r.service + "/v1/tenants/other/facts"},
		{"demo tenant", r.service + "/v1/tenants/other/refusals"},
		{"demo tenant", r.service + "/v1/facts:follow"},
		{"demo tenant", r.service + "/v1/facts"},
		{"demo tenant", r.service + "/v1/platform/facts:follow"},
	} {
		if s := r.open(t, c.as, c.url, ""); s.resp.StatusCode != http.StatusNotFound {
			t.Errorf("%s at %s: %d, want 404", c.as, c.url, s.resp.StatusCode)
		}
	}
	if s := r.open(t, "demo tenant", r.operator+"/v1/facts:follow", ""); s.resp.StatusCode != http.StatusForbidden {
		t.Errorf("a tenant at the operators' listener: %d", s.resp.StatusCode)
	}
	for name, c := range map[string]struct {
		url, last string
		want      int
	}{
		"a position that is none":         {r.service + demoFacts, "yesterday", http.StatusBadRequest},
		"a position ahead of all":         {r.service + demoFacts, "18446744073709551615.1", http.StatusConflict},
		"a serial that is none":           {r.service + demoFacts + "&serial=1", "", http.StatusBadRequest},
		"a parameter that nobody reads":   {r.service + demoFacts + "&whatever=1", "", http.StatusBadRequest},
		"a scope that is none, all of it": {r.operator + "/v1/facts:follow?scope=A", "", http.StatusBadRequest},
	} {
		as := "demo tenant"
		if strings.HasPrefix(c.url, r.operator) {
			as = "operator"
		}
		if s := r.open(t, as, c.url, c.last); s.resp.StatusCode != c.want {
			t.Errorf("%s: %d, want %d", name, s.resp.StatusCode, c.want)
		}
	}
}

func TestFollowingEndsWithTheCertificate(t *testing.T) {
	r := newRig(t)
	s := r.open(t, "leaver", r.service+"/v1/tenants/demo/projects/shop/environments/dev/facts:follow", "")
	var ended api.Certificate
	if got := r.send(t, "demo tenant", "POST", r.service+"/v1/certificates/"+serialOf(r.certs["leaver"])+":revoke", map[string]string{"reason": "superseded"}, &ended); got != http.StatusOK {
		t.Fatalf("revoking: %d", got)
	}
	for {
		name, data := s.next()
		if name == "end" {
			var end api.End // by its fact, or by asking again whether the caller is admitted: whichever came first
			if err := json.Unmarshal([]byte(data), &end); err != nil || end.Reason != "unadmitted" || end.Resume {
				t.Errorf("the end is %s", data)
			}
			return
		}
		if name != "fact" {
			t.Fatalf("event %s %s", name, data)
		}
	}
}

func TestACallerHasAFewStreamsAtATime(t *testing.T) {
	r := newRig(t)
	for range 3 {
		if s := r.open(t, "demo tenant", r.service+demoFacts, ""); s.resp.StatusCode != http.StatusOK {
			t.Fatalf("status %d", s.resp.StatusCode)
		}
	}
	s := r.open(t, "demo tenant", r.service+demoFacts, "")
	if s.resp.StatusCode != http.StatusTooManyRequests || s.resp.Header.Get("Retry-After") == "" {
		t.Errorf("a fourth: %d", s.resp.StatusCode)
	}
	if s := r.open(t, "demo", r.service+"/v1/tenants/demo/projects/shop/environments/dev/facts:follow", ""); s.resp.StatusCode != http.StatusOK {
		t.Errorf("another caller: %d", s.resp.StatusCode)
	}
}

// Whoever is refused is told a reference; who it concerns finds with it what was refused, and nobody else.
func TestARefusalIsExplainedByItsReference(t *testing.T) {
	r := newRig(t)
	var problem struct{ Instance string }
	in := map[string]string{"csr": csr(t, pkitest.Key(t), "dns:evil.test"), "profile": "server"}
	if got := r.send(t, "demo", "POST", r.service+demoCerts, in, &problem); got != http.StatusForbidden {
		t.Fatalf("issuing: %d", got)
	}
	reference := strings.TrimPrefix(problem.Instance, "urn:segl:request:")
	var found api.Explanation
	for _, as := range []string{"demo", "demo tenant"} {
		if got := r.send(t, as, "GET", r.service+"/v1/refusals/"+reference, nil, &found); got != http.StatusOK {
			t.Fatalf("asked by %s: %d", as, got)
		}
	}
	if len(found.Refusals) != 1 || found.Refusals[0].What != audit.Issue || !strings.Contains(found.Refusals[0].Why, "name rights") || found.Refusals[0].Request != reference {
		t.Fatalf("%+v", found)
	}
	var byID api.Explanation
	r.send(t, "operator", "GET", r.operator+"/v1/refusals/"+found.Refusals[0].ID, nil, &byID)
	if len(byID.Refusals) != 1 || byID.Refusals[0].ID != found.Refusals[0].ID {
		t.Errorf("by its id: %+v", byID)
	}
	var none struct{}
	for _, url := range []string{"/v1/refusals/" + reference, "/v1/refusals/" + found.Refusals[0].ID, "/v1/refusals/nothing-of-the-kind", "/v1/refusals/1.1"} {
		if got := r.send(t, "other tenant", "GET", r.service+url, nil, &none); got != http.StatusNotFound {
			t.Errorf("%s, asked by another tenant: %d", url, got)
		}
	}
	var list api.FactList
	r.send(t, "demo tenant", "GET", r.service+"/v1/tenants/demo/refusals", nil, &list)
	if len(list.Facts) == 0 || list.Facts[0].ID != found.Refusals[0].ID {
		t.Errorf("the tenant's refusals, the newest first: %+v", list)
	}
}
