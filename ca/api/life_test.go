package api_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	xocsp "golang.org/x/crypto/ocsp"

	"codeberg.org/dataverket/segl/ca/api"
	"codeberg.org/dataverket/segl/internal/pkitest"
	"codeberg.org/dataverket/segl/internal/web"
)

type body = map[string]any

// Making a CA costs more than any of these: they share one. The last moves its clock.
func TestDoors(t *testing.T) {
	r := newRig(t)
	for _, promise := range []struct {
		name string
		keep func(*testing.T, *rig)
	}{
		{"Transcripts", transcripts},
		{"The bundle is the root", theBundleIsTheRoot},
		{"Published bytes are what they say", publishedBytesAreWhatTheySay},
		{"Repeating under one name gives one certificate", repeatingUnderOneNameGivesOneCertificate},
		{"Many at once under one name get one certificate", manyAtOnceUnderOneNameGetOneCertificate},
		{"A batch is repeated under its name", aBatchIsRepeatedUnderItsName},
		{"Enrol renew revoke", enrolRenewRevoke},
		{"A server renews itself and does nothing else", aServerRenewsItself},
		{"Lists page to the end", listsPageToTheEnd},
		{"An expired token lets nobody in", anExpiredTokenLetsNobodyIn},
	} {
		t.Run(promise.name, func(t *testing.T) { promise.keep(t, r) })
	}
}

// An order whose answer was lost is repeated under its name and gets the same certificate; nobody else's key or name does.
func repeatingUnderOneNameGivesOneCertificate(t *testing.T, r *rig) {
	order := body{"csr": csr(t, pkitest.Key(t), "dns:a.demo.test"), "profile": "server"}
	ask := func(as string, in body, header ...string) (api.Certificate, int) {
		var c api.Certificate
		status := r.send(t, as, http.MethodPost, r.service+demoCerts, in, &c, header...)
		return c, status
	}
	first, status := ask("demo", order, "Idempotency-Key", "k1")
	again, status2 := ask("demo", order, "Idempotency-Key", "k1")
	if status != 201 || status2 != 201 || first.Serial == "" || first.Certificate != again.Certificate {
		t.Errorf("%d %s, then %d %s", status, first.Serial, status2, again.Serial)
	}
	for name, other := range map[string]struct {
		as     string
		header []string
	}{
		"another key":    {"demo", []string{"Idempotency-Key", "k2"}},
		"no key":         {"demo", nil},
		"another caller": {"demo tenant", []string{"Idempotency-Key", "k1"}},
	} {
		if c, status := ask(other.as, order, other.header...); status != 201 || c.Serial == first.Serial {
			t.Errorf("%s: %d %s, want a certificate of its own", name, status, c.Serial)
		}
	}
	order["csr"] = csr(t, pkitest.Key(t), "dns:a.demo.test")
	if _, status := ask("demo", order, "Idempotency-Key", "k1"); status != http.StatusConflict {
		t.Errorf("another request under the same key: %d, want 409", status)
	}
}

func manyAtOnceUnderOneNameGetOneCertificate(t *testing.T, r *rig) {
	order := body{"csr": csr(t, pkitest.Key(t), "dns:a.demo.test"), "profile": "server"}
	r.as(t, "demo")
	var mu sync.Mutex
	serials := map[string]int{}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for {
				var c api.Certificate
				status := r.send(t, "demo", http.MethodPost, r.service+demoCerts, order, &c, "Idempotency-Key", "k")
				if status == http.StatusConflict {
					continue // in progress; the deadline of the test bounds this
				}
				mu.Lock()
				defer mu.Unlock()
				serials[c.Serial]++
				return
			}
		})
	}
	wg.Wait()
	if len(serials) != 1 {
		t.Errorf("got %v, want one certificate", serials)
	}
}

// A batch under a name is repeated as a whole.
func aBatchIsRepeatedUnderItsName(t *testing.T, r *rig) {
	var orders []body
	for i := range 20 {
		orders = append(orders, body{"csr": csr(t, pkitest.Key(t), fmt.Sprintf("dns:n%d.demo.test", i)), "profile": "server"})
	}
	var first, again api.BatchAnswer
	in := body{"requests": orders}
	if s := r.send(t, "demo", http.MethodPost, r.service+demoCerts+":batch", in, &first, "Idempotency-Key", "b"); s != 200 {
		t.Fatal(s)
	}
	r.send(t, "demo", http.MethodPost, r.service+demoCerts+":batch", in, &again, "Idempotency-Key", "b")
	for i := range orders {
		a, b := first.Items[i].Certificate, again.Items[i].Certificate
		if a == nil || b == nil || a.Serial != b.Serial || a.Names[0] != fmt.Sprintf("dns:n%d.demo.test", i) {
			t.Errorf("item %d: %v, then %v", i, first.Items[i], again.Items[i])
		}
	}
	var p web.Problem
	for range 81 {
		orders = append(orders, orders[0])
	}
	if s := r.send(t, "demo", http.MethodPost, r.service+demoCerts+":batch", body{"requests": orders}, &p); s != 400 || p.Type != "urn:segl:problem:batch-too-large" {
		t.Errorf("101 at once: %d %v", s, p)
	}
}

// From a token to an identity, and from that to the next: the whole life of a workload.
func enrolRenewRevoke(t *testing.T, r *rig) {
	var token api.Invitation
	if s := r.send(t, "demo", http.MethodPost, r.service+"/v1/tenants/demo/projects/shop/environments/dev/enrollment-tokens",
		body{"workload": "web", "names": []string{"dns:web.demo.test"}, "ttl": "10m"}, &token); s != 201 {
		t.Fatal(s)
	}
	key := pkitest.Key(t)
	enrol := body{"token": token.Token, "csr": csr(t, key, "dns:web.demo.test")}
	var mine, again api.Certificate
	var p web.Problem
	if s := r.send(t, "nobody", http.MethodPost, r.service+"/v1/certificates:enroll", enrol, &mine); s != 201 {
		t.Fatal(s)
	}
	if mine.Identity != "spiffe://segl.test/tenant/demo/project/shop/environment/dev/web" || mine.Identity != token.Identity {
		t.Errorf("enrolled as %s", mine.Identity)
	}
	if s := r.send(t, "other tenant", http.MethodPost, r.service+"/v1/certificates:enroll", enrol, &again); s != 201 || again.Serial != mine.Serial {
		t.Errorf("the same token and key again: %d %s, want %s", s, again.Serial, mine.Serial)
	}
	enrol["csr"] = csr(t, pkitest.Key(t))
	if s := r.send(t, "nobody", http.MethodPost, r.service+"/v1/certificates:enroll", enrol, &p); s != 409 || p.Type != "urn:segl:problem:token-used" {
		t.Errorf("the token with another key: %d %v", s, p)
	}

	r.certs["web"] = pair(t, mine.Certificate, key)
	var next api.Certificate
	nextKey := pkitest.Key(t)
	renewal := body{"csr": csr(t, nextKey)}
	if s := r.send(t, "web", http.MethodPost, r.service+"/v1/certificates:renew", renewal, &next); s != 201 || next.Serial == mine.Serial || next.Identity != mine.Identity {
		t.Fatalf("%d %+v", s, next)
	}
	if s := r.send(t, "web", http.MethodPost, r.service+"/v1/certificates:renew", renewal, &again); s != 201 || again.Serial != next.Serial {
		t.Errorf("the renewal again: %d %s, want %s", s, again.Serial, next.Serial)
	}
	if s := r.send(t, "web", http.MethodPost, r.service+"/v1/certificates:renew", body{"csr": csr(t, pkitest.Key(t))}, &p); s != 409 || p.Type != "urn:segl:problem:already-done" {
		t.Errorf("a second successor: %d %v", s, p)
	}

	r.certs["web 2"] = pair(t, next.Certificate, nextKey)
	if s := r.send(t, "web 2", http.MethodPost, r.service+"/v1/certificates/"+next.Serial+":revoke", body{"reason": "keyCompromise"}, &again); s != 200 || again.Revoked == nil {
		t.Fatalf("%d %+v", s, again)
	}
	if s := r.send(t, "web 2", http.MethodPost, r.service+"/v1/certificates:renew", renewal, &p); s != 403 {
		t.Errorf("a revoked certificate renews: %d %v", s, p)
	}
	if s := r.send(t, "demo", http.MethodPost, r.service+demoCerts, body{"csr": csr(t, nextKey, "dns:a.demo.test"), "profile": "server"}, &p); s != 403 || p.Type != "urn:segl:problem:key-blocked" {
		t.Errorf("the compromised key again: %d %v", s, p)
	}
}

// A certificate that is not for clients, and has no identity, is proof enough to renew it, and of nothing else.
func aServerRenewsItself(t *testing.T, r *rig) {
	key, nextKey := pkitest.Key(t), pkitest.Key(t)
	var mine, next api.Certificate
	if s := r.send(t, "demo", http.MethodPost, r.service+demoCerts, body{"csr": csr(t, key, "dns:a.demo.test"), "profile": "server"}, &mine); s != 201 {
		t.Fatal(s)
	}
	r.certs["server"] = pair(t, mine.Certificate, key)
	s := r.send(t, "server", http.MethodPost, r.service+"/v1/certificates:renew", body{"csr": csr(t, nextKey)}, &next)
	if s != 201 || next.Serial == mine.Serial || next.Profile != "server" || len(next.Names) != 1 {
		t.Fatalf("%d %+v", s, next)
	}
	var p web.Problem
	for _, ask := range []struct{ method, path string }{
		{http.MethodGet, demoCerts}, {http.MethodGet, "/v1/certificates/" + mine.Serial}, {http.MethodPost, "/v1/certificates/" + mine.Serial + ":revoke"},
	} {
		var in any
		if ask.method == http.MethodPost {
			in = body{"reason": "superseded"}
		}
		if s := r.send(t, "server", ask.method, r.service+ask.path, in, &p); s != 401 {
			t.Errorf("%s %s: %d %v, want 401", ask.method, ask.path, s, p)
		}
	}
	if s := r.send(t, "demo", http.MethodPost, r.service+"/v1/certificates/"+mine.Serial+":revoke", body{"reason": "keyCompromise"}, &mine); s != 200 {
		t.Fatal(s)
	}
	if s := r.send(t, "server", http.MethodPost, r.service+"/v1/certificates:renew", body{"csr": csr(t, nextKey)}, &p); s != 403 {
		t.Errorf("a revoked server renews: %d %v", s, p)
	}
}

func anExpiredTokenLetsNobodyIn(t *testing.T, r *rig) {
	var token api.Invitation
	r.send(t, "demo", http.MethodPost, r.service+"/v1/tenants/demo/projects/shop/environments/dev/enrollment-tokens", body{"workload": "web"}, &token)
	r.Advance(time.Hour + time.Second)
	var p web.Problem
	if s := r.send(t, "nobody", http.MethodPost, r.service+"/v1/certificates:enroll", body{"token": token.Token, "csr": csr(t, pkitest.Key(t))}, &p); s != 403 {
		t.Errorf("%d %v", s, p)
	}
}

// Following next_page_token shows everything once, in order of expiry.
func listsPageToTheEnd(t *testing.T, r *rig) {
	want := map[string]bool{}
	at := func(d time.Duration) string { return r.Now().Add(d).UTC().Format(time.RFC3339) }
	between := "&expires_after=" + at(80*time.Hour) + "&expires_before=" + at(100*time.Hour) // where the others made none
	for i := range 7 {
		var c api.Certificate
		r.send(t, "demo", http.MethodPost, r.service+demoCerts, body{
			"csr": csr(t, pkitest.Key(t), fmt.Sprintf("dns:n%d.demo.test", i)), "profile": "server", "ttl": fmt.Sprintf("%dh", 90-i/2),
		}, &c)
		want[c.Serial] = true
	}
	var last time.Time
	token := ""
	for pages := 1; ; pages++ {
		var page api.CertificateList
		r.send(t, "demo", http.MethodGet, r.service+demoCerts+"?page_size=3"+between+token, nil, &page)
		for _, c := range page.Certificates {
			if c.NotAfter.Before(last) {
				t.Errorf("%s ends before the one ahead of it", c.Serial)
			}
			last = c.NotAfter.Time
			delete(want, c.Serial)
		}
		if page.NextPageToken == nil {
			break
		}
		text, err := page.NextPageToken.MarshalText()
		must(t, err)
		token = "&page_token=" + string(text)
		if pages > 10 {
			t.Fatal("the list does not end")
		}
	}
	if len(want) != 0 {
		t.Errorf("not listed: %v", want)
	}
}

// What SPIFFE peers read as a bundle is the root: one key, of use x509-svid, with exactly its certificate.
func theBundleIsTheRoot(t *testing.T, r *rig) {
	var got struct {
		Keys []struct {
			Use, Kty, Crv, X, Y string
			X5C                 [][]byte
		}
		Sequence int64 `json:"spiffe_sequence"`
		Refresh  int   `json:"spiffe_refresh_hint"`
	}
	if s := r.send(t, "nobody", http.MethodGet, r.public+"/bundle.json", nil, &got); s != 200 || len(got.Keys) != 1 {
		t.Fatalf("%d %+v", s, got)
	}
	k := got.Keys[0]
	if k.Use != "x509-svid" || k.Kty != "EC" || k.Crv != "P-256" || len(k.X5C) != 1 || string(k.X5C[0]) != string(r.Roots()[0].Raw) {
		t.Errorf("%+v", k)
	}
	pub, ok := r.Roots()[0].PublicKey.(*ecdsa.PublicKey)
	if !ok {
		t.Fatal("the root's key is not of P-256")
	}
	point, err := pub.Bytes()
	must(t, err)
	x, errX := base64.RawURLEncoding.DecodeString(k.X)
	y, errY := base64.RawURLEncoding.DecodeString(k.Y)
	must(t, errors.Join(errX, errY))
	if string(point[1:]) != string(x)+string(y) {
		t.Error("the coordinates are not the root's")
	}
	if got.Refresh != 300 || got.Sequence == 0 {
		t.Errorf("sequence %d, refresh %d", got.Sequence, got.Refresh)
	}
}

// Bytes meant for others are read back by somebody else's code.
func publishedBytesAreWhatTheySay(t *testing.T, r *rig) {
	fetch := func(path string) []byte {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, r.public+path, nil)
		must(t, err)
		resp, err := r.as(t, "nobody").Do(req)
		must(t, err)
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		must(t, err)
		return b
	}
	issuer, err := x509.ParseCertificate(fetch("/issuers/servers-1-1.cer"))
	must(t, err)
	must(t, issuer.CheckSignatureFrom(r.Roots()[0]))
	block, rest := pem.Decode(fetch("/roots.pem"))
	if block == nil || string(block.Bytes) != string(r.Roots()[0].Raw) || len(rest) != 0 {
		t.Error("roots.pem is not the root")
	}
	lists := 0
	for rest = fetch("/crls.pem"); ; lists++ {
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		_, err := x509.ParseRevocationList(block.Bytes)
		must(t, err)
	}
	if want := len(r.Authorities()); lists != want {
		t.Errorf("%d lists, want one of each of %d authorities", lists, want)
	}
	// A request whose base64 has slashes in a row must not be cleaned on its way.
	leaf := r.certs["demo"].Leaf
	above, err := x509.ParseCertificate(r.certs["demo"].Certificate[1])
	must(t, err)
	for _, h := range []crypto.Hash{crypto.SHA1, crypto.SHA256} {
		der, err := xocsp.CreateRequest(leaf, above, &xocsp.RequestOptions{Hash: h})
		must(t, err)
		text := base64.StdEncoding.EncodeToString(der)
		for _, path := range []string{text, strings.ReplaceAll(text, "/", "%2F"), url.QueryEscape(text)} {
			got, err := xocsp.ParseResponseForCert(fetch("/ocsp/"+path), leaf, above)
			if err != nil || got.Status != xocsp.Good {
				t.Errorf("%s: %+v, %v", path, got, err)
			}
		}
	}
}

func pair(t testing.TB, chain string, key any) tls.Certificate {
	t.Helper()
	var c tls.Certificate
	rest := []byte(chain)
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		c.Certificate = append(c.Certificate, block.Bytes)
	}
	var err error
	c.Leaf, err = x509.ParseCertificate(c.Certificate[0])
	must(t, err)
	c.PrivateKey = key
	return c
}
