package verify

import (
	"context"
	"crypto"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// proofAge is how old a DPoP proof may be; with skew, as far as it may be of the future.
const proofAge = time.Minute

// A Proof is a DPoP proof whose signature verifies (RFC 9449 §4.2).
type Proof struct {
	Thumbprint string // of the key that signed it (RFC 7638)
	ID         string // jti
	Method     string // htm
	URL        string // htu
	IssuedAt   time.Time
	Token      string // ath: the hash of the token it comes with; empty at the token endpoint
	Nonce      string
}

// ParseProof reads a DPoP header field, by the list of RFC 9449 §4.3.
func ParseProof(text string) (Proof, error) {
	refuse := func(why string) (Proof, error) { return Proof{}, fmt.Errorf("%w: %s (RFC 9449 §4.3)", ErrProof, why) }
	if text == "" || len(text) > maxToken || strings.Count(text, ".") != 2 {
		return refuse("want one JWT in one DPoP header field")
	}
	parsed, err := jose.ParseSignedCompact(text, proofAlgorithms())
	if err != nil || len(parsed.Signatures) != 1 {
		return refuse("it is malformed, or its algorithm is none of ES256, ES384, EdDSA, PS256, RS256")
	}
	h := parsed.Signatures[0].Header
	if typ, _ := h.ExtraHeaders[jose.HeaderType].(string); typ != "dpop+jwt" {
		return refuse("its type is not dpop+jwt")
	}
	key := h.JSONWebKey
	if key == nil || !key.Valid() || !key.IsPublic() { // "the jwk JOSE Header Parameter does not contain a private key"
		return refuse("want the public key, and it alone, as jwk")
	}
	payload, err := parsed.Verify(key.Key)
	if err != nil {
		return refuse("its signature does not verify")
	}
	var c struct {
		ID       string `json:"jti"`
		Method   string `json:"htm"`
		URL      string `json:"htu"`
		IssuedAt *int64 `json:"iat"`
		Token    string `json:"ath"`
		Nonce    string `json:"nonce"`
	}
	if err := json.Unmarshal(payload, &c); err != nil || c.ID == "" || len(c.ID) > 256 || c.Method == "" || c.URL == "" || c.IssuedAt == nil {
		return refuse("want jti, of at most 256 octets, htm, htu and iat")
	}
	sum, err := key.Thumbprint(crypto.SHA256)
	if err != nil {
		return refuse("its key has no thumbprint")
	}
	return Proof{
		Thumbprint: base64.RawURLEncoding.EncodeToString(sum), ID: c.ID, Method: c.Method, URL: c.URL,
		IssuedAt: time.Unix(*c.IssuedAt, 0).UTC(), Token: c.Token, Nonce: c.Nonce,
	}, nil
}

// proofAlgorithms are those a client may sign proofs with: what clients can do, and nothing symmetric.
func proofAlgorithms() []jose.SignatureAlgorithm {
	return []jose.SignatureAlgorithm{jose.ES256, jose.ES384, jose.EdDSA, jose.PS256, jose.RS256}
}

// Check says whether a proof is for a request, and of now.
func (p Proof) Check(method, address string, now time.Time) error {
	switch {
	case p.Method != method:
		return fmt.Errorf("%w: it is for method %.20q (RFC 9449 §4.3)", ErrProof, p.Method)
	case !sameURL(p.URL, address):
		return fmt.Errorf("%w: it is for %.200q, not for %s (RFC 9449 §4.3)", ErrProof, p.URL, address)
	case now.Sub(p.IssuedAt) > proofAge || p.IssuedAt.Sub(now) > skew:
		return fmt.Errorf("%w: it was made at %s: make one for each request, and set the clock (RFC 9449 §4.3)", ErrProof, p.IssuedAt.Format(time.RFC3339))
	}
	return nil
}

// sameURL compares two addresses without their queries and fragments, after the normalization of RFC 3986 §6.2.2 and §6.2.3 that
// RFC 9449 §4.3 asks for: scheme and host in any case, the scheme's own port left out, an empty path as "/".
func sameURL(a, b string) bool {
	x, okX := normal(a)
	y, okY := normal(b)
	return okX && okY && x == y
}

func normal(s string) (string, bool) {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.User != nil || u.Opaque != "" {
		return "", false
	}
	scheme, host := strings.ToLower(u.Scheme), strings.ToLower(u.Host)
	for of, port := range map[string]string{"https": ":443", "http": ":80"} {
		if scheme == of {
			host = strings.TrimSuffix(host, port)
		}
	}
	path := u.EscapedPath()
	if path == "" {
		path = "/"
	}
	return scheme + "://" + host + path, true
}

// Replay is what must not be shown twice: the key and the proof's own name.
func (p Proof) Replay() string {
	sum := sha256.Sum256([]byte(p.Thumbprint + " " + p.ID))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// Until is when a proof is refused for its age.
func (p Proof) Until() time.Time { return p.IssuedAt.Add(proofAge + skew) }

// NewSeen returns a memory of one process for at most n proofs that are not yet too old. Once it is full it takes no more.
func NewSeen(n int, now func() time.Time) Seen {
	return &seen{most: n, now: now, until: make(map[string]time.Time)}
}

type seen struct {
	most int
	now  func() time.Time

	mu    sync.Mutex // guards until
	until map[string]time.Time
}

func (s *seen) First(_ context.Context, id string, until time.Time) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.until[id]; ok {
		return false, nil
	}
	if len(s.until) >= s.most {
		now := s.now()
		for id, end := range s.until {
			if end.Before(now) {
				delete(s.until, id)
			}
		}
	}
	if len(s.until) >= s.most {
		return false, errors.New("too many DPoP proofs at once")
	}
	s.until[id] = until
	return true, nil
}
