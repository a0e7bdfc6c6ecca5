package check_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/ca/check"
	"codeberg.org/dataverket/segl/ca/crl"
	"codeberg.org/dataverket/segl/ca/ocsp"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/pkitest"
)

const term = 7

// A site publishes what its ledger holds, and is looked at.
type site struct {
	*pkitest.House
	lists     crl.Config
	responder *ocsp.Responder
	handler   http.Handler
	checker   *check.Checker
	certs     []ca.Certificate
	swap      func(path string, answer []byte) []byte // what a listener that lies makes of an answer
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{House: pkitest.New(t), swap: func(_ string, answer []byte) []byte { return answer }}
	_, err := s.DB.Exec(t.Context(), `INSERT INTO duty (name, holder, term, expires_at) VALUES ($1, 'test', $2, 'infinity')`, crl.Duty, term)
	must(t, err)
	signers := func() (list []crl.Authority) {
		for _, a := range s.Authorities() {
			list = append(list, crl.Authority{ID: a.ID, Name: a.Name, Certificate: a.Certificate, Key: a.Key, URL: s.PublicURL + "/crl/" + a.Name + "/"})
		}
		return list
	}
	s.lists = crl.Config{Shards: s.Ledger, Authorities: signers, Now: s.Now}
	s.responder = ocsp.New(ocsp.Config{Ledger: s.Ledger, Enroller: s.CA, Now: s.Now, Authorities: func() (list []ocsp.Authority) {
		for _, a := range s.Authorities() {
			list = append(list, ocsp.Authority{ID: a.ID, Name: a.Name, Certificate: a.Certificate})
		}
		return list
	}})
	must(t, s.responder.RunOnce(t.Context()))
	for i := range 4 {
		c, err := s.Issue(t.Context(), pkitest.Workload(pkitest.Demo, "web"), ca.Request{
			Scope: pkitest.Demo, Profile: "server", CSR: pkitest.CSR(t, pkitest.Key(t), fmt.Sprintf("dns:%d.demo.test", i)),
		})
		must(t, err)
		s.certs = append(s.certs, c)
	}
	s.revoke(t, 0)
	s.publish(t)
	s.checker = check.New(check.Config{
		Ledger: s.Ledger, Authorities: signers, Endpoints: []string{"http://site"}, Site: 1, Now: s.Now,
		Fetch: func(ctx context.Context, url string, body []byte) ([]byte, error) { return s.fetch(ctx, url, body) },
	})
	return s
}

func (s *site) revoke(t *testing.T, i int) {
	t.Helper()
	_, err := s.Revoke(t.Context(), identity.System("test"), s.certs[i].Serial, cert.Superseded)
	must(t, err)
	s.responder.Drop(s.certs[i].Serial)
}

func (s *site) publish(t *testing.T) {
	t.Helper()
	must(t, crl.New(s.lists).RunOnce(t.Context(), term))
	s.handler = crl.NewServer(s.lists)
}

func (s *site) fetch(ctx context.Context, url string, body []byte) ([]byte, error) {
	req := httptest.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	h := s.handler
	if body != nil {
		req = httptest.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
		req.Header.Set("Content-Type", ocsp.RequestType)
		h = s.responder
	}
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, req)
	if rec.Code != http.StatusOK {
		return nil, errors.New(rec.Result().Status)
	}
	answer, err := io.ReadAll(rec.Body)
	return s.swap(req.URL.Path, answer), err
}

func (s *site) found(t *testing.T) (all []string) {
	t.Helper()
	found, err := s.checker.RunOnce(t.Context())
	must(t, err)
	for _, f := range found {
		all = append(all, f.Check+" "+f.Where+" "+f.What)
	}
	return all
}

func TestWhatIsPublishedIsWhatTheLedgerHolds(t *testing.T) {
	s := newSite(t)
	if found := s.found(t); len(found) != 0 {
		t.Errorf("found %q", found)
	}
	// A revocation that is not published yet is no difference, until it is late.
	s.revoke(t, 1)
	if found := s.found(t); len(found) != 0 {
		t.Errorf("just revoked: found %q", found)
	}
}

func TestEachDifferenceIsFound(t *testing.T) {
	exec := func(t *testing.T, s *site, sql string, args ...any) {
		t.Helper()
		_, err := s.DB.Exec(t.Context(), sql, args...)
		must(t, err)
	}
	for name, row := range map[string]struct {
		make func(t *testing.T, s *site)
		want string
	}{
		"an ending that a newer list lacks": {func(t *testing.T, s *site) {
			exec(t, s, `
				INSERT INTO revocation (serial, revoked_at, authority, scope, reason)
				SELECT serial, now() - interval '1 hour', authority, scope, 4 FROM intent WHERE serial = $1`, s.certs[2].Serial.Bytes())
		}, "entries | lacks 1 that ended before it"},
		"an ending that has left the ledger": {func(t *testing.T, s *site) {
			exec(t, s, `DELETE FROM revocation WHERE serial = $1`, s.certs[0].Serial.Bytes())
		}, "entries | names 1 that have not ended"},
		"a list that was altered": {func(t *testing.T, s *site) {
			s.swap = func(path string, b []byte) []byte {
				if strings.HasPrefix(path, "/crl/") {
					b[len(b)/2] ^= 1
				}
				return b
			}
		}, "list | it cannot be used"},
		"a list of another shard": {func(t *testing.T, s *site) {
			var other []byte
			s.swap = func(path string, b []byte) []byte {
				if strings.HasSuffix(path, "/0.crl") || !strings.HasPrefix(path, "/crl/"+s.certs[0].Authority) {
					return b
				}
				if other == nil {
					other = b
				}
				return other
			}
		}, "list | distribution point is another shard's"},
		"a list that has ended": {func(t *testing.T, s *site) {
			s.Advance(crl.Life + time.Hour)
			must(t, s.responder.RunOnce(t.Context()))
		}, "list | ended at"},
		"a list that stays away": {func(t *testing.T, s *site) {
			s.handler = http.NotFoundHandler()
		}, "list | it cannot be fetched"},
		"a list that a proxy keeps": {func(t *testing.T, s *site) {
			old := map[string][]byte{}
			s.swap = func(path string, b []byte) []byte { old[path] = b; return b }
			s.found(t)
			s.swap = func(path string, b []byte) []byte {
				if o := old[path]; o != nil && strings.HasPrefix(path, "/crl/") {
					return o
				}
				return b
			}
			s.revoke(t, 3)
			s.publish(t)
			s.Advance(10 * time.Minute)
		}, "list | was published 10m"},
		"an answer that has become untrue": {func(t *testing.T, s *site) {
			s.responder.Listening()
			s.found(t)
			exec(t, s, `
				INSERT INTO revocation (serial, revoked_at, authority, scope, reason)
				SELECT serial, now(), authority, scope, 4 FROM intent WHERE serial = $1`, s.certs[2].Serial.Bytes())
		}, "ocsp | the answer is good, the ledger says revoked"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			row.make(t, s)
			found := strings.Join(s.found(t), "\n")
			kind, words, _ := strings.Cut(row.want, " | ")
			if !strings.Contains(found, kind+" http://site/") || !strings.Contains(found, words) {
				t.Errorf("found %q, want %q", found, row.want)
			}
		})
	}
}

func TestALedgerThatCannotBeAskedIsNoFinding(t *testing.T) {
	s := newSite(t)
	s.DB.Close()
	if found, err := s.checker.RunOnce(t.Context()); err == nil || len(found) != 0 {
		t.Errorf("found %v, %v", found, err)
	}
}
