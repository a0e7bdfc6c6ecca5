package token_test

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"net/url"
	"strings"
	"testing"
	"time"

	"codeberg.org/dataverket/segl/credentials/token"
	"codeberg.org/dataverket/segl/credentials/token/verify"
	"codeberg.org/dataverket/segl/internal/cert"
)

func TestATokenEndsWithWhatItCameFrom(t *testing.T) {
	for name, end := range map[string]func(*house, workload, string){
		"its certificate, heard by notice": func(h *house, w workload, text string) {
			if h.End(w.Who.Serial); h.active(t, w, text) {
				t.Error("it is active until the ledger is read")
			}
			h.ends = append(h.ends, token.End{At: h.at, Kind: "crt", Value: w.Who.Serial.String()})
		},
		"its certificate, read": func(h *house, w workload, _ string) {
			h.ends = append(h.ends, token.End{At: h.at, Kind: "crt", Value: w.Who.Serial.String()})
		},
		"its scope":        func(h *house, _ workload, _ string) { h.suspended[scope(t, "demo/shop/dev")] = true },
		"the scope above":  func(h *house, _ workload, _ string) { h.suspended[scope(t, "demo")] = true },
		"its binding":      func(h *house, _ workload, _ string) { h.ended = []int64{1} },
		"an incident":      func(h *house, w workload, _ string) { h.mass, h.revoked[w.Who.Serial] = h.at, true },
		"its time":         func(h *house, _ workload, _ string) { h.at = h.at.Add(time.Hour) },
		"its key, revoked": func(h *house, _ workload, text string) { h.keys[0].RevokedAt = h.at },
		"itself": func(h *house, w workload, text string) {
			if err := h.Revoke(t.Context(), w.Peer, form(t, url.Values{"token": {text}, "client_id": {w.id}})); err != nil {
				t.Error(err)
			}
		},
	} {
		h := open(t, func(c *token.Config) { c.Algorithms = []string{"ES256"} })
		w := h.web(t)
		text := h.issue(t, w).Token
		if !h.active(t, w, text) {
			t.Fatalf("%s: it is not active to begin with", name)
		}
		end(h, w, text)
		h.read(t)
		if err := h.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
		if h.active(t, w, text) {
			t.Errorf("%s ended, and the token is active", name)
		}
		h.restart(t)
		if h.active(t, w, text) {
			t.Errorf("%s ended, and after a restart the token is active", name)
		}
	}
}

func TestIntrospectionAsksNoLedgerUnlessSomethingIsInDoubt(t *testing.T) {
	h := open(t, nil)
	w := h.web(t)
	text := h.issue(t, w).Token
	for range 10 {
		h.active(t, w, text)
	}
	if h.asked != 0 {
		t.Errorf("asked %d times", h.asked)
	}
	h.mass = h.at
	h.read(t)
	if !h.active(t, w, text) || h.asked != 1 {
		t.Errorf("in doubt it asked %d times", h.asked)
	}
}

func TestWhoCannotFollowCallsNothingActive(t *testing.T) {
	h := open(t, nil)
	w := h.web(t)
	text := h.issue(t, w).Token
	h.at = h.at.Add(6 * time.Second) // nothing was read meanwhile
	i, err := h.Introspect(t.Context(), w.Peer, form(t, url.Values{"token": {text}}))
	if code(err) != token.Unavailable || i.Active {
		t.Errorf("%+v, %v", i, err)
	}
	if _, _, err := h.List(t.Context(), "", 0); code(err) != token.Unavailable {
		t.Errorf("a list is signed: %v", err)
	}
}

func TestStrangersLearnNothingByIntrospection(t *testing.T) {
	h := open(t, nil)
	w := h.web(t)
	text := h.issue(t, w).Token
	same, other := h.workload(t, "/tenant/demo/api", time.Hour), h.workload(t, "/tenant/other/api", time.Hour)
	platform := h.workload(t, "/platform/gateway", time.Hour)
	if !h.active(t, same, text) || !h.active(t, platform, text) {
		t.Error("the tenant's own service, or the platform's, is told nothing")
	}
	if h.active(t, other, text) {
		t.Error("another tenant is told")
	}
	h.bind(t, w.id, time.Hour, []string{other.id})
	if !h.active(t, other, h.issue(t, w, "audience", other.id).Token) {
		t.Error("who a token is for is told nothing")
	}
	if _, err := h.Introspect(t.Context(), token.Peer{}, form(t, url.Values{"token": {text}})); code(err) != token.InvalidClient {
		t.Errorf("nobody in particular asks: %v", err)
	}
	if _, err := h.Introspect(t.Context(), w.Peer, form(t, url.Values{})); code(err) != token.InvalidRequest {
		t.Errorf("about nothing: %v", err)
	}
}

func TestForgeriesAreInactive(t *testing.T) {
	h := open(t, nil)
	w := h.web(t)
	good := h.issue(t, w).Token
	head, rest, _ := strings.Cut(good, ".")
	_, signature, _ := strings.Cut(rest, ".")
	for name, text := range map[string]string{
		"nothing like a token":       "x",
		"another signature":          good[:len(good)-4] + "AAAA",
		"another's claims":           head + "." + strings.TrimSuffix(rest, "."+signature)[:20] + "." + signature,
		"alg none":                   "eyJhbGciOiJub25lIiwidHlwIjoiYXQrand0In0." + rest,
		"its own key":                jws(t, w.key, map[jheader]any{"typ": "at+jwt"}, true, h.says(t, good)),
		"our key's name, its own":    jws(t, w.key, map[jheader]any{"typ": "at+jwt", "kid": kid(t, good)}, false, h.says(t, good)),
		"a name that climbs":         jws(t, w.key, map[jheader]any{"typ": "at+jwt", "kid": "../../etc/passwd"}, false, h.says(t, good)),
		"a name that is a statement": jws(t, w.key, map[jheader]any{"typ": "at+jwt", "kid": "' OR 1=1 --"}, false, h.says(t, good)),
	} {
		if h.active(t, w, text) {
			t.Errorf("%s is active", name)
		}
	}
}

func TestATokenIsRevokedByItsHolderAlone(t *testing.T) {
	h := open(t, nil)
	w := h.web(t)
	other := h.workload(t, "/tenant/demo/project/shop/environment/dev/other", time.Hour)
	text := h.issue(t, w).Token
	if err := h.Revoke(t.Context(), other.Peer, form(t, url.Values{"token": {text}, "client_id": {other.id}})); code(err) != token.UnauthorizedClient || !h.active(t, w, text) {
		t.Errorf("another client's: %v", err)
	}
	if err := h.Revoke(t.Context(), w.Peer, form(t, url.Values{"token": {"nonsense"}, "client_id": {w.id}})); err != nil {
		t.Errorf("what is no token: %v", err) // RFC 7009 §2.2
	}
	if err := h.Revoke(t.Context(), token.Peer{}, form(t, url.Values{"token": {text}})); code(err) != token.InvalidClient {
		t.Errorf("nobody in particular: %v", err)
	}
	facts := len(h.facts)
	for range 2 { // the second time changes nothing
		if err := h.Revoke(t.Context(), w.Peer, form(t, url.Values{"token": {text}, "client_id": {w.id}})); err != nil || h.active(t, w, text) {
			t.Errorf("its holder: %v", err)
		}
	}
	if len(h.facts) != facts+1 {
		t.Errorf("%d facts, want one", len(h.facts)-facts)
	}
}

func TestKeysArePublishedBeforeAndAfterTheySign(t *testing.T) {
	const rotation, lead, life = 48 * time.Hour, time.Hour, 24 * time.Hour
	h := open(t, func(c *token.Config) {
		c.Algorithms, c.Rotation, c.Lead, c.Life = []string{"ES256"}, rotation, lead, life
	})
	names := func() (out []string) {
		keys, _ := h.Keys()
		for _, k := range keys {
			out = append(out, k.Kid)
		}
		return out
	}
	signs := func() string {
		return kid(t, h.issue(t, h.workload(t, "/tenant/demo/project/shop/environment/dev/web", time.Hour)).Token)
	}
	first := signs()
	_, sequence := h.Keys()
	h.pass(t, rotation-lead-time.Second)
	if err := h.Rotate(t.Context()); err != nil || len(names()) != 1 {
		t.Fatalf("too early: %v, %v", names(), err)
	}
	h.pass(t, time.Second)
	for range 2 { // a duty is done twice
		if err := h.Rotate(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	_, next := h.Keys()
	if len(names()) != 2 || signs() != first || next <= sequence {
		t.Fatalf("published %v, sequence %d after %d, and %s signs", names(), next, sequence, signs())
	}
	h.pass(t, lead)
	second := signs()
	if second == first {
		t.Fatal("the first still signs")
	}
	h.pass(t, life)
	if len(names()) != 2 {
		t.Error("the first is gone while what it signed may live")
	}
	h.pass(t, 2*time.Minute)
	if got := names(); len(got) != 1 || got[0] != second {
		t.Errorf("published %v, want the second alone", got)
	}
}

func TestARevokedKeyIsReplacedAtOnce(t *testing.T) {
	h := open(t, func(c *token.Config) { c.Algorithms = []string{"ES256"} })
	w := h.web(t)
	text := h.issue(t, w).Token
	if err := h.RevokeKey(t.Context(), w.Who, kid(t, text), "lost"); err != nil {
		t.Fatal(err)
	}
	if h.active(t, w, text) {
		t.Error("what it signed is active")
	}
	if kid(t, h.issue(t, w).Token) == kid(t, text) {
		t.Error("it signs on")
	}
	if err := h.RevokeKey(t.Context(), w.Who, "nobody", "lost"); !errors.Is(err, token.ErrNotFound) {
		t.Errorf("a key that is not there: %v", err)
	}
}

func TestTheListEndsWhatIntrospectionEnds(t *testing.T) {
	h := open(t, nil)
	w := h.web(t)
	text := h.issue(t, w).Token
	list := func() *verify.List {
		t.Helper()
		signed, _, err := h.List(t.Context(), "", 0)
		if err != nil {
			t.Fatal(err)
		}
		l, err := verify.ParseList(t.Context(), signed, issuer, published{h})
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	c := h.says(t, text)
	if list().Has(c) {
		t.Fatal("it is over to begin with")
	}
	h.suspended[scope(t, "demo/shop")] = true
	h.Moved()
	if !list().Has(c) {
		t.Error("a suspended scope is not listed")
	}
	clear(h.suspended)
	h.ended = []int64{1}
	h.Moved()
	if !list().Has(c) {
		t.Error("an ended binding is not listed")
	}
	h.ended = nil
	h.End(w.Who.Serial)
	if !list().Has(c) {
		t.Error("a revoked certificate is not listed")
	}
	signed, _, err := h.List(t.Context(), "", 0)
	if err != nil || strings.Contains(decoded(t, signed), w.Who.Serial.String()) {
		t.Errorf("a list names a serial, %v", err)
	}
	if _, err := verify.ParseList(t.Context(), text, issuer, published{h}); err == nil {
		t.Error("a token passes for a list")
	}
	if _, err := verify.ParseList(t.Context(), signed, "https://evil.test", published{h}); err == nil {
		t.Error("another issuer's list is taken")
	}
}

func TestAListChangesForWhoWaits(t *testing.T) {
	h := open(t, nil)
	w := h.web(t)
	_, tag, err := h.List(t.Context(), "", 0)
	if err != nil {
		t.Fatal(err)
	}
	if text, same, err := h.List(t.Context(), tag, time.Millisecond); err != nil || text != "" || same != tag {
		t.Errorf("nothing happened, and %q, %v", same, err)
	}
	got := make(chan string)
	go func() {
		_, next, _ := h.List(t.Context(), tag, time.Minute)
		got <- next
	}()
	h.End(w.Who.Serial)
	select {
	case next := <-got:
		if next == tag {
			t.Error("the tag is the same")
		}
	case <-time.After(10 * time.Second):
		t.Fatal("who waits hears nothing")
	}
}

func TestWhatThereIsNoRoomForIsDoubted(t *testing.T) {
	h := open(t, nil)
	w := h.web(t)
	text := h.issue(t, w).Token
	for range token.EndedMost + 1 {
		h.End(cert.NewSerial(1, h.now()))
	}
	if !h.active(t, w, text) || h.asked == 0 {
		t.Errorf("it was asked %d times whether the certificate stands", h.asked)
	}
	signed, _, err := h.List(t.Context(), "", 0)
	if err != nil {
		t.Fatal(err)
	}
	l, err := verify.ParseList(t.Context(), signed, issuer, published{h})
	if err != nil || !l.Has(h.says(t, text)) || len(l.Ended) > 1 {
		t.Errorf("%d marks, floor %d, %v", len(l.Ended), l.Floor, err)
	}
	h.pass(t, 2*time.Second)
	if fresh := h.says(t, h.issue(t, w).Token); l.Has(fresh) {
		t.Error("what is issued afterwards is over as well")
	}
}

// The ledger knows certificates, and not which tokens were revoked: what was forgotten of those must not be active again.
func TestARevokedTokenStaysRevokedHoweverMuchEnds(t *testing.T) {
	h := open(t, nil)
	w := h.web(t)
	text := h.issue(t, w).Token
	revoke := func(w workload, text string) {
		t.Helper()
		if err := h.Revoke(t.Context(), w.Peer, form(t, url.Values{"client_id": {w.id}, "token": {text}})); err != nil {
			t.Fatal(err)
		}
	}
	revoke(w, text)
	for range token.EndedMost + 1 {
		h.End(cert.NewSerial(1, h.now()))
	}
	if h.active(t, w, text) {
		t.Error("more certificates ended than there is room for, and it is active again")
	}
	for range token.TokensMost + 1 {
		h.ends = append(h.ends, token.End{At: h.at, Kind: "jti", Value: rand.Text()})
	}
	h.read(t)
	if h.active(t, w, text) {
		t.Error("more tokens were revoked than there is room for, and it is active again")
	}
	h.ends = nil // who goes on from where it was does not read them again
	h.pass(t, 2*time.Second)
	if !h.active(t, w, h.issue(t, w).Token) {
		t.Error("what is issued afterwards is over as well")
	}
}

func TestConfigurationsThatCannotWorkAreRefused(t *testing.T) {
	h := open(t, nil)
	for name, change := range map[string]func(*token.Config){
		"no such algorithm":              func(c *token.Config) { c.Algorithms = []string{"ES256", "none"} },
		"no ES256":                       func(c *token.Config) { c.Algorithms = []string{"EdDSA"} },
		"a lead longer than a rotation":  func(c *token.Config) { c.Lead = 60 * 24 * time.Hour },
		"a lead that caches outlive":     func(c *token.Config) { c.Lead = time.Minute },
		"a life longer than is followed": func(c *token.Config) { c.Life = 8 * 24 * time.Hour },
		"no issuer":                      func(c *token.Config) { c.Issuer = "" },
	} {
		c := h.cfg
		change(&c)
		if _, err := token.New(c); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
}

func decoded(t *testing.T, signed string) string {
	t.Helper()
	_, rest, _ := strings.Cut(signed, ".")
	payload, _, _ := strings.Cut(rest, ".")
	b, err := raw(payload)
	if err != nil || !json.Valid(b) {
		t.Fatal(err)
	}
	return string(b)
}
