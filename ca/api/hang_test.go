package api_test

import (
	"bytes"
	"context"
	"crypto"
	"encoding/json"
	"net/http"
	"strconv"
	"sync"
	"testing"
	"time"

	"codeberg.org/dataverket/segl/internal/pkitest"
	"codeberg.org/dataverket/segl/kms"
)

// A token is a keyring whose keys can be made to hang, as those of an HSM do, behind the pools that stand before one.
type token struct {
	kms.Keyring
	mu    sync.Mutex
	hung  chan struct{} // nil: it answers
	pools map[string]kms.Key
}

func (k *token) Key(ctx context.Context, name string) (kms.Key, error) {
	key, err := k.Keyring.Key(ctx, name)
	if err != nil {
		return nil, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.pools[name] == nil {
		k.pools[name] = kms.NewPool(held{key, k}, kms.Limits{Workers: 2, Deadline: 200 * time.Millisecond, Cooldown: 50 * time.Millisecond})
	}
	return k.pools[name], nil
}

// hang has every key hang from now on, or answer again, those that hang too.
func (k *token) hang(on bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if on {
		k.hung = make(chan struct{})
		return
	}
	close(k.hung)
	k.hung = nil
}

type held struct {
	kms.Key
	in *token
}

func (h held) Sign(ctx context.Context, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	h.in.mu.Lock()
	hung := h.in.hung
	h.in.mu.Unlock()
	if hung != nil {
		<-hung // whatever the context says: a driver's call returns when the token does
	}
	return h.Key.Sign(ctx, digest, opts)
}

// Every door that issues says 503 and when to come back while the HSM hangs, at once after the first has missed its deadline, and
// issues again by itself. What was never begun leaves no intent behind.
func TestAHungTokenIsSaidAtEveryDoorAndIsOverByItself(t *testing.T) {
	r := newRig(t)
	k := &token{Keyring: r.Keyring, pools: map[string]kms.Key{}}
	must(t, r.Load(t.Context(), k))
	const at = "/v1/tenants/demo/projects/shop/environments/dev"
	var invited struct {
		Token string `json:"token"`
	}
	if status := r.send(t, "operator", http.MethodPost, r.operator+at+"/enrollment-tokens", map[string]any{"workload": "late"}, &invited); status != http.StatusCreated {
		t.Fatalf("inviting: %d", status)
	}
	late := csr(t, pkitest.Key(t))
	ask := func(door string) (status, after int) {
		t.Helper()
		switch door {
		case "issue":
			return r.asks(t, "demo", r.service+at+"/certificates", map[string]any{"profile": "server", "csr": csr(t, pkitest.Key(t), "dns:a.demo.test")})
		case "issue an identity":
			return r.asks(t, "demo", r.service+at+"/certificates", map[string]any{"profile": "client", "workload": "w", "csr": csr(t, pkitest.Key(t))})
		case "issue for the platform":
			return r.asks(t, "operator", r.operator+"/v1/platform/certificates", map[string]any{"profile": "server", "csr": csr(t, pkitest.Key(t), "dns:localhost")})
		case "enroll":
			return r.asks(t, "nobody", r.service+"/v1/certificates:enroll", map[string]any{"token": invited.Token, "csr": late})
		default:
			return r.asks(t, "leaver", r.service+"/v1/certificates:renew", map[string]any{"csr": csr(t, pkitest.Key(t))})
		}
	}
	intents := func() (n int) {
		must(t, r.DB.QueryRow(t.Context(), `SELECT count(*) FROM intent`).Scan(&n))
		return n
	}

	// 1. The first to ask each authority finds out; whoever follows is told at once, and nothing is written down for them.
	k.hang(true)
	for _, door := range []string{"issue", "issue an identity"} { // one of each purpose
		if status, after := ask(door); status != http.StatusServiceUnavailable || after < 1 {
			t.Errorf("%s, the first: %d, Retry-After %d", door, status, after)
		}
	}
	for door, first := range map[string]string{
		"issue": "issue", "issue an identity": "issue an identity", "issue for the platform": "issue", "enroll": "issue an identity", "renew": "issue an identity",
	} {
		ask(first) // it may be the one that tries the key again, which then is left alone a while longer
		before, began := intents(), time.Now()
		status, after := ask(door)
		if status != http.StatusServiceUnavailable || after < 1 {
			t.Errorf("%s: %d, Retry-After %d", door, status, after)
		}
		if n := intents(); n > before {
			t.Errorf("%s: %d intents for one that was turned away", door, n-before)
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("%s: told after %s", door, took)
		}
	}

	// 2. It answers again, and so do we: nobody has to do anything.
	k.hang(false)
	r.Advance(r.AbandonAfter + time.Second)
	_, err := r.Abandon(t.Context()) // as its duty does: what was begun and never signed is given up, and begun anew
	must(t, err)
	for _, door := range []string{"issue", "issue for the platform", "enroll", "renew"} {
		for end := time.Now().Add(30 * time.Second); ; {
			status, _ := ask(door)
			if status == http.StatusCreated {
				break
			}
			if status != http.StatusServiceUnavailable || time.Now().After(end) {
				t.Fatalf("%s: %d, though the token answers", door, status)
			}
		}
	}
}

// asks posts once and returns the status with Retry-After in seconds.
func (r *rig) asks(t *testing.T, as, url string, body any) (status, after int) {
	t.Helper()
	text, err := json.Marshal(body)
	must(t, err)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, bytes.NewReader(text))
	must(t, err)
	req.Header.Set("Content-Type", "application/json")
	resp, err := r.as(t, as).Do(req)
	must(t, err)
	defer resp.Body.Close()
	after, _ = strconv.Atoi(resp.Header.Get("Retry-After"))
	return resp.StatusCode, after
}
