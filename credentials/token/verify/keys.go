package verify

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
)

const (
	keysRefresh = 5 * time.Minute
	keysKeep    = 24 * time.Hour
	keysPause   = 5 * time.Second // between two readings, so that tokens with invented keys ask the issuer nothing
	maxAnswer   = 1 << 20
)

// NewKeys returns the keys that are published at address (RFC 7517 §5), as client fetches them; its timeout bounds how long a token
// with an unknown key waits. They are read again every five minutes and used for a day while the issuer is away.
func NewKeys(address string, client *http.Client, now func() time.Time) Keys {
	return &published{address: address, client: client, now: now}
}

type published struct {
	address string
	client  *http.Client
	now     func() time.Time

	reading sync.Mutex // held by whoever fetches

	mu    sync.RWMutex // guards below
	set   map[string]jose.JSONWebKey
	read  time.Time
	tried time.Time
}

// Key implements Keys.
func (p *published) Key(ctx context.Context, id string) (jose.JSONWebKey, error) {
	k, known, due := p.look(id)
	if known && !due {
		return k, nil
	}
	if err := p.fetch(ctx, id, known); err != nil && !known {
		return jose.JSONWebKey{}, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	if k, known, _ = p.look(id); !known {
		return jose.JSONWebKey{}, fmt.Errorf("%w: its issuer has no key of that name: ask for another", ErrToken)
	}
	return k, nil
}

func (p *published) look(id string) (k jose.JSONWebKey, known, due bool) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	now := p.now()
	k, known = p.set[id]
	known = known && now.Sub(p.read) < keysKeep
	return k, known, (!known || now.Sub(p.read) > keysRefresh) && now.Sub(p.tried) >= keysPause
}

// fetch reads the set. One caller does; others wait for it, unless they have what they need.
func (p *published) fetch(ctx context.Context, id string, known bool) error {
	if known && !p.reading.TryLock() {
		return nil
	} else if !known {
		p.reading.Lock()
	}
	defer p.reading.Unlock()
	if _, known, due := p.look(id); !due {
		if known || !p.never() {
			return nil
		}
		return errors.New("the keys could not be read a moment ago")
	}
	p.mu.Lock()
	p.tried = p.now()
	p.mu.Unlock()
	body, _, err := get(ctx, p.client, p.address, nil)
	if err != nil {
		return fmt.Errorf("reading the issuer's keys: %w", err)
	}
	set, err := ParseKeys(body)
	if err != nil {
		return fmt.Errorf("reading the issuer's keys: %w", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.set, p.read = set, p.now()
	return nil
}

func (p *published) never() bool {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.set == nil || p.now().Sub(p.read) >= keysKeep
}

// ParseKeys reads a JWK set, leaving out what cannot verify a token of ours.
func ParseKeys(b []byte) (map[string]jose.JSONWebKey, error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(b, &set); err != nil {
		return nil, errors.New("want a JWK set (RFC 7517 §5)")
	}
	out := make(map[string]jose.JSONWebKey)
	for _, raw := range set.Keys {
		var k jose.JSONWebKey
		// RFC 7517 §5: "Implementations SHOULD ignore JWKs within a JWK Set that use "kty" values that are not understood"
		if json.Unmarshal(raw, &k) == nil && k.Valid() && k.IsPublic() && k.KeyID != "" && usable(k.Algorithm) && (k.Use == "" || k.Use == "sig") {
			out[k.KeyID] = k
		}
	}
	if len(out) == 0 {
		return nil, errors.New("none is a public key that signs tokens")
	}
	return out, nil
}

func usable(algorithm string) bool {
	for _, a := range Algorithms() {
		if string(a) == algorithm {
			return true
		}
	}
	return false
}

// errSame: what was fetched before is still what there is.
var errSame = errors.New("nothing new")

// get fetches address, and returns its entity tag too.
func get(ctx context.Context, client *http.Client, address string, header http.Header) (body []byte, tag string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, "", err
	}
	for name, values := range header {
		req.Header[name] = values
	}
	res, err := client.Do(req)
	if err != nil {
		return nil, "", err
	}
	defer res.Body.Close() //nolint:errcheck // only read
	switch {
	case res.StatusCode == http.StatusNotModified:
		return nil, "", errSame
	case res.StatusCode != http.StatusOK:
		return nil, "", fmt.Errorf("status %d", res.StatusCode)
	}
	b, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	if err == nil && len(b) > maxAnswer {
		err = fmt.Errorf("an answer of more than %d octets", maxAnswer)
	}
	return b, res.Header.Get("ETag"), err
}
