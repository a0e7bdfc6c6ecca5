package token

import (
	"context"
	"crypto"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"

	"codeberg.org/dataverket/segl/credentials/token/verify"
	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/kms"
)

// How tokens are signed (RFC 7518 §3.1, RFC 8037 §3.1).
const (
	ES256 = "ES256"
	EdDSA = "EdDSA"
)

// KeysAge is how long a key set may be kept by whoever fetched it.
const KeysAge = 5 * time.Minute

// A KeyRow is a token key as it is stored. Everything else about it is computed.
type KeyRow struct {
	ID        string // kid: its thumbprint (RFC 7638)
	Algorithm string // ES256 or EdDSA
	Name      string // of the key in its keyring
	MadeAt    time.Time
	SignsFrom time.Time // not before anybody who keeps key sets has had time to fetch it
	RevokedAt time.Time // zero: it never was. A revoked key is published no more, and what it signed is good nowhere
}

// A SigningKey is a key that is in use.
type SigningKey struct {
	KeyRow
	Key     kms.Key
	JWK     JWK
	headers map[string]string
}

// A keyset is all keys at one moment, in the order in which they sign. It is never changed.
//
//	made            signs from        the next signs from     + longest life
//	 |── published ──|──── signs ──────|──── verifies ─────────| gone
type keyset struct {
	keys []SigningKey
	life time.Duration // the longest of a token
}

// successor returns when the next key of the same kind begins to sign.
func (s *keyset) successor(k SigningKey) (time.Time, bool) {
	for _, other := range s.keys {
		if other.Algorithm == k.Algorithm && other.RevokedAt.IsZero() && other.SignsFrom.After(k.SignsFrom) {
			return other.SignsFrom, true
		}
	}
	return time.Time{}, false
}

// gone returns when a key leaves the set that is published.
func (s *keyset) gone(k SigningKey) (time.Time, bool) {
	if !k.RevokedAt.IsZero() {
		return k.RevokedAt, true
	}
	next, ok := s.successor(k)
	return next.Add(s.life + keep), ok
}

// keep is how much longer than a token can live its key is published: clocks differ.
const keep = time.Minute

// published returns the keys that verify what may still be good.
func (s *keyset) published(now time.Time) []SigningKey {
	var out []SigningKey
	for _, k := range s.keys {
		if end, ok := s.gone(k); !ok || now.Before(end) {
			out = append(out, k)
		}
	}
	return out
}

// changed returns the last moment at which what is published became what it is.
func (s *keyset) changed(now time.Time) time.Time {
	var last time.Time
	for _, k := range s.keys {
		if k.MadeAt.After(last) {
			last = k.MadeAt
		}
		if end, ok := s.gone(k); ok && !end.After(now) && end.After(last) {
			last = end
		}
	}
	return last
}

// signer returns the key that signs now: the newest whose time has come.
func (s *keyset) signer(algorithm string, now time.Time) (SigningKey, bool) {
	for _, k := range slices.Backward(s.keys) {
		if k.Algorithm == algorithm && k.RevokedAt.IsZero() && !k.SignsFrom.After(now) {
			return k, true
		}
	}
	return SigningKey{}, false
}

// Key implements verify.Keys.
func (s *keyset) Key(_ context.Context, id string) (jose.JSONWebKey, error) {
	for _, k := range s.keys {
		if k.ID == id && k.RevokedAt.IsZero() {
			return jose.JSONWebKey{Key: k.Key.Public(), KeyID: k.ID, Algorithm: k.Algorithm, Use: "sig"}, nil
		}
	}
	return jose.JSONWebKey{}, fmt.Errorf("%w: no key of ours has that name", verify.ErrToken)
}

// Keys returns what is published, and a number that grows when that changes.
func (s *Server) Keys() (keys []JWK, sequence int64) {
	now := s.cfg.Now()
	set := s.keys.Load()
	for _, k := range set.published(now) {
		keys = append(keys, k.JWK)
	}
	return keys, set.changed(now).Unix()
}

// Reload reads the keys again.
func (s *Server) Reload(ctx context.Context) error {
	rows, err := s.cfg.Store.Keys(ctx)
	if err != nil {
		return fmt.Errorf("reading token keys: %w", err)
	}
	set := &keyset{life: s.cfg.Life}
	for _, row := range rows {
		k, err := s.load(ctx, row)
		if err != nil {
			return err
		}
		set.keys = append(set.keys, k)
	}
	slices.SortStableFunc(set.keys, func(a, b SigningKey) int { return a.SignsFrom.Compare(b.SignsFrom) })
	s.keys.Store(set)
	return nil
}

func (s *Server) load(ctx context.Context, row KeyRow) (SigningKey, error) {
	for _, k := range s.keys.Load().keys {
		if k.ID == row.ID {
			k.KeyRow = row
			return k, nil
		}
	}
	key, err := s.cfg.Keyring.Key(ctx, row.Name)
	if err != nil {
		return SigningKey{}, fmt.Errorf("loading token key %s: %w", row.ID, err)
	}
	k := SigningKey{KeyRow: row, Key: key, headers: map[string]string{}}
	if k.JWK, err = describe(key); err != nil {
		return SigningKey{}, err
	}
	if id, err := thumbprint(key); err != nil || id != row.ID || k.JWK.Alg != row.Algorithm {
		return SigningKey{}, fmt.Errorf("loading token key %s: the keyring has another under its name", row.ID)
	}
	k.JWK.Kid = row.ID
	for _, typ := range []string{verify.TypeAccessToken, verify.TypeSVID, verify.TypeEnded} {
		k.headers[typ] = encodeHeader(row.Algorithm, row.ID, typ)
	}
	return k, nil
}

// thumbprint names a key (RFC 7638 §3).
func thumbprint(key kms.Key) (string, error) {
	sum, err := (&jose.JSONWebKey{Key: key.Public()}).Thumbprint(crypto.SHA256)
	return base64.RawURLEncoding.EncodeToString(sum), err
}

// Rotate makes the next key of each kind where its time has come, so that it is published Lead before it signs. It is a duty:
// done twice, it does nothing the second time.
func (s *Server) Rotate(ctx context.Context) error {
	if err := s.Reload(ctx); err != nil {
		return err
	}
	now, set := s.cfg.Now(), s.keys.Load()
	var errs error
	made := false
	for _, algorithm := range s.cfg.Algorithms {
		from, due := s.due(set, algorithm, now)
		if !due {
			continue
		}
		made = true
		errs = errors.Join(errs, s.make(ctx, algorithm, now, from))
	}
	if made {
		errs = errors.Join(errs, s.Reload(ctx))
	}
	return errs
}

// due reports whether a key is to be made, and from when it is to sign. The first signs at once: nobody knows another.
func (s *Server) due(set *keyset, algorithm string, now time.Time) (from time.Time, due bool) {
	var newest time.Time
	for _, k := range set.keys {
		if k.Algorithm == algorithm && k.RevokedAt.IsZero() {
			newest = k.SignsFrom
		}
	}
	if _, signs := set.signer(algorithm, now); !signs {
		return now, true
	}
	return now.Add(s.cfg.Lead), !now.Before(newest.Add(s.cfg.Rotation - s.cfg.Lead))
}

func (s *Server) make(ctx context.Context, algorithm string, now, from time.Time) error {
	kind := map[string]kms.Algorithm{ES256: kms.P256, EdDSA: kms.Ed25519}[algorithm]
	name := "token-" + strings.ToLower(algorithm) + "-" + strings.ToLower(rand.Text()[:16])
	key, err := s.cfg.Keyring.Create(ctx, name, kind)
	if err != nil {
		return fmt.Errorf("making token key %s: %w", name, err)
	}
	id, err := thumbprint(key)
	if err != nil {
		return fmt.Errorf("making token key %s: %w", name, err)
	}
	row := KeyRow{ID: id, Algorithm: algorithm, Name: name, MadeAt: now, SignsFrom: from}
	f := audit.Fact{At: now, Who: identity.System("token-keys"), Scope: identity.Platform, What: audit.TokenKeyMade, Subject: id}
	if err := s.cfg.Store.AddKey(ctx, row, f); err != nil {
		return fmt.Errorf("storing token key %s: %w", name, err)
	}
	return nil
}

// RevokeKey takes a key back at once: it is published no more and all it signed is good nowhere. A successor signs at once.
func (s *Server) RevokeKey(ctx context.Context, who identity.Caller, id, why string) error {
	now := s.cfg.Now()
	f := audit.Fact{At: now, Who: who, Scope: identity.Platform, What: audit.TokenKeyRevoked, Subject: id, Why: why}
	if err := s.cfg.Store.RevokeKey(ctx, id, f); err != nil {
		return fmt.Errorf("revoking token key %s: %w", id, err)
	}
	return s.Rotate(ctx)
}
