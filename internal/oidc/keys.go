package oidc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	oidclib "github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"
)

const (
	maxKeySet = 1 << 20
	maxKeys   = 128
	// pause lies between two readings, so that tokens with invented keys ask the provider nothing.
	pause = 5 * time.Second
)

// keys are a provider's, as last read.
type keys struct {
	cfg        Config
	algorithms []jose.SignatureAlgorithm
	ctx        context.Context //nolint:containedctx // ends readings at Close
	stop       context.CancelFunc
	background sync.WaitGroup
	fixed      bool // set is all there is, for ever

	mu     sync.Mutex
	set    []jose.JSONWebKey
	read   time.Time     // when set was
	tried  time.Time     // when a reading began last
	busy   chan struct{} // closed when the reading under way ends; nil: none is
	failed error         // how the last reading failed
}

func newKeys(cfg Config) *keys {
	k := &keys{cfg: cfg}
	for _, a := range algorithms {
		k.algorithms = append(k.algorithms, jose.SignatureAlgorithm(a))
	}
	k.ctx, k.stop = context.WithCancel(context.Background())
	return k
}

func (k *keys) close() {
	k.stop()
	k.background.Wait()
}

// A signature is the judgement of one token's.
type signature struct {
	keys *keys
	err  error
}

// VerifySignature implements oidc.KeySet.
func (s *signature) VerifySignature(ctx context.Context, token string) (payload []byte, err error) {
	payload, s.err = s.keys.verify(ctx, token)
	return payload, s.err
}

// verify returns what a token says if one of the provider's keys signed it.
func (k *keys) verify(ctx context.Context, token string) ([]byte, error) {
	parsed, err := jose.ParseSigned(token, k.algorithms)
	if err != nil {
		return nil, errSignature
	}
	if len(parsed.Signatures) != 1 {
		return nil, errSignature
	}
	h := parsed.Signatures[0].Header
	if h.KeyID == "" {
		return nil, fmt.Errorf("%w: it does not say which key signed it (RFC 9068 §2.1 and RFC 7515 §4.1.4)", ErrToken)
	}
	found, err := k.find(ctx, h.KeyID)
	if err != nil {
		return nil, err
	}
	for i := range found {
		// RFC 8725 §3.1: "a key MUST be used with exactly one algorithm, and this MUST be checked"
		if found[i].Algorithm != "" && found[i].Algorithm != h.Algorithm || found[i].Use != "" && found[i].Use != "sig" {
			continue
		}
		if payload, err := parsed.Verify(&found[i]); err == nil {
			return payload, nil
		}
	}
	return nil, errSignature
}

var errSignature = fmt.Errorf("%w: it is malformed, or its signature does not verify (RFC 7515 §5.2)", ErrToken)

// find returns the keys called id, reading the provider's if there is none or they have become old.
func (k *keys) find(ctx context.Context, id string) ([]jose.JSONWebKey, error) {
	for waited := false; ; waited = true {
		k.mu.Lock()
		if k.fixed {
			found := k.namedLocked(id)
			k.mu.Unlock()
			if len(found) == 0 {
				return nil, fmt.Errorf("%w: none of the registered keys has the name it gives", ErrToken)
			}
			return found, nil
		}
		now := k.cfg.Now()
		found, age := k.namedLocked(id), now.Sub(k.read)
		known := len(found) > 0 && age <= k.cfg.Keep
		if (!known || age > k.cfg.Refresh) && now.Sub(k.tried) >= pause && k.busy == nil && !waited {
			k.beginLocked(now)
		}
		busy, trouble, none := k.busy, k.failed, k.read.IsZero() || age > k.cfg.Keep
		k.mu.Unlock()
		switch {
		case known:
			return found, nil
		case busy != nil:
			select {
			case <-busy:
			case <-ctx.Done():
				return nil, fmt.Errorf("%w: %w", ErrUnavailable, ctx.Err())
			}
		case none:
			return nil, fmt.Errorf("%w: %w", ErrUnavailable, trouble)
		default:
			return nil, fmt.Errorf("%w: %s has no key of that name: log in again", ErrToken, k.cfg.Issuer)
		}
	}
}

func (k *keys) namedLocked(id string) (found []jose.JSONWebKey) {
	for _, key := range k.set {
		if key.KeyID == id {
			found = append(found, key)
		}
	}
	return found
}

// beginLocked reads the keys in the background: whoever has to waits for busy.
func (k *keys) beginLocked(now time.Time) {
	busy := make(chan struct{})
	k.busy, k.tried = busy, now
	k.background.Go(func() {
		set, err := k.fetch()
		k.mu.Lock()
		defer k.mu.Unlock()
		if k.failed = err; err == nil {
			k.set, k.read = set, now
		}
		k.busy = nil
		close(busy)
	})
}

// fetch asks the provider where its keys are, and for them.
func (k *keys) fetch() ([]jose.JSONWebKey, error) {
	ctx, cancel := context.WithTimeout(oidclib.ClientContext(k.ctx, k.cfg.Client), 2*k.cfg.Client.Timeout)
	defer cancel()
	provider, err := oidclib.NewProvider(ctx, k.cfg.Issuer) // refuses one that calls itself otherwise
	if err != nil {
		return nil, fmt.Errorf("reading what %s says of itself: %.300s", k.cfg.Issuer, err) // it repeats what the provider answered, all of it
	}
	var described struct {
		Keys string `json:"jwks_uri"`
	}
	if err := provider.Claims(&described); err != nil {
		return nil, fmt.Errorf("reading where %s has its keys: %w", k.cfg.Issuer, err)
	}
	if !strings.HasPrefix(described.Keys, "https://") && !(strings.HasPrefix(k.cfg.Issuer, "http://") && strings.HasPrefix(described.Keys, "http://127.0.0.1:")) {
		return nil, fmt.Errorf("reading where %s has its keys: want https (OpenID Connect Discovery 1.0 §3)", k.cfg.Issuer)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, described.Keys, nil)
	if err != nil {
		return nil, fmt.Errorf("reading the keys of %s: %w", k.cfg.Issuer, err)
	}
	res, err := k.cfg.Client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("reading the keys of %s: %w", k.cfg.Issuer, err)
	}
	defer res.Body.Close() //nolint:errcheck // only read
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("reading the keys of %s: status %d", k.cfg.Issuer, res.StatusCode)
	}
	return decode(io.LimitReader(res.Body, maxKeySet))
}

// decode reads a key set, leaving out what cannot verify a signature of ours (RFC 7517 §5).
func decode(r io.Reader) ([]jose.JSONWebKey, error) {
	var set struct{ Keys []json.RawMessage }
	if err := json.NewDecoder(r).Decode(&set); err != nil {
		return nil, errors.New("reading keys: want a JWK set of at most 1 MiB (RFC 7517 §5)")
	}
	if len(set.Keys) > maxKeys {
		return nil, fmt.Errorf("reading keys: %d of them, want at most %d", len(set.Keys), maxKeys)
	}
	var keys []jose.JSONWebKey
	for _, raw := range set.Keys {
		var key jose.JSONWebKey
		// RFC 7517 §5: "Implementations SHOULD ignore JWKs within a JWK Set that use "kty" values that are not understood"
		if json.Unmarshal(raw, &key) == nil && key.Valid() && key.IsPublic() {
			keys = append(keys, key)
		}
	}
	if len(keys) == 0 {
		return nil, errors.New("reading keys: none is a public key that signs")
	}
	return keys, nil
}
