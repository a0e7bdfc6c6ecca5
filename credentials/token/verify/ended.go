package verify

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// TypeEnded is the typ of a list of what has ended.
const TypeEnded = "segl-ended+jwt"

// A Mark stands in a list for something that ended: the first twelve octets of a SHA-256. Whoever has a token can compute its
// marks; from a list alone nobody learns what it names.
type Mark [12]byte

// MarkOf returns the mark of something: a token ("jti"), a certificate ("crt"), a binding ("bnd"), or a SPIFFE path with all below
// it ("spf").
func MarkOf(kind, value string) Mark {
	sum := sha256.Sum256([]byte(kind + ":" + value))
	return Mark(sum[:len(Mark{})])
}

// Marks returns those of which any ends the token: itself, each certificate it was derived from, its binding, the tokens that were
// exchanged for it and theirs, and the scopes that its holder and its subject belong to.
func (c Claims) Marks() []Mark {
	out := make([]Mark, 0, 12) //nolint:mnd // as many as most have
	out = append(out, MarkOf("jti", c.ID))
	for _, serial := range c.Certificates {
		out = append(out, MarkOf("crt", serial))
	}
	if c.Binding != "" {
		out = append(out, MarkOf("bnd", c.Binding))
	}
	for _, text := range c.From {
		kind, value, _ := strings.Cut(text, ":")
		out = append(out, MarkOf(kind, value))
	}
	out = appendScopes(out, c.ClientID)
	if c.Subject != c.ClientID {
		out = appendScopes(out, c.Subject)
	}
	return out
}

// appendScopes adds the marks of the scopes that a SPIFFE ID is in: of spiffe://d/tenant/t/project/p/w those of …/tenant/t and
// …/tenant/t/project/p.
func appendScopes(out []Mark, id string) []Mark {
	rest, ok := strings.CutPrefix(id, "spiffe://")
	if !ok {
		return out
	}
	at, steps := len(id)-len(rest), 0
	for {
		slash := strings.IndexByte(id[at:], '/')
		if slash < 0 {
			return out
		}
		at += slash
		if steps > 0 && steps%2 == 0 {
			out = append(out, MarkOf("spf", id[:at]))
		}
		steps++
		at++
	}
}

// A List is what a list of ended things says.
type List struct {
	Issuer   string `json:"iss"`
	IssuedAt int64  `json:"iat"`
	Expires  int64  `json:"exp"` // who has nothing newer than this knows nothing any more
	// Floor is the second before which tokens are taken for ended: more ended than a list can name.
	Floor int64    `json:"floor,omitempty"`
	Ended []string `json:"ended"` // marks, in base64url

	marks map[Mark]struct{}
}

// ParseList reads a list that a key of the issuer's signed.
func ParseList(ctx context.Context, text, issuer string, keys Keys) (*List, error) {
	refuse := func(why string) (*List, error) { return nil, fmt.Errorf("list of ended tokens: %s", why) }
	parsed, err := jose.ParseSignedCompact(text, Algorithms())
	if err != nil || len(parsed.Signatures) != 1 {
		return refuse("want one JWS")
	}
	h := parsed.Signatures[0].Header
	if typ, _ := h.ExtraHeaders[jose.HeaderType].(string); typ != TypeEnded {
		return refuse("its type is not " + TypeEnded) // RFC 8725 §3.11: a token is no list
	}
	key, err := keys.Key(ctx, h.KeyID)
	if err != nil {
		return nil, fmt.Errorf("list of ended tokens: %w", err)
	}
	payload, err := parsed.Verify(key.Key)
	if err != nil || key.Algorithm != h.Algorithm {
		return refuse("its signature does not verify")
	}
	l := new(List)
	if err := json.Unmarshal(payload, l); err != nil || l.Issuer != issuer || l.IssuedAt == 0 || l.Expires == 0 {
		return refuse("want iss, of the issuer, iat, exp and ended")
	}
	l.marks = make(map[Mark]struct{}, len(l.Ended))
	for _, text := range l.Ended {
		b, err := base64.RawURLEncoding.Strict().DecodeString(text)
		if err != nil || len(b) != len(Mark{}) {
			return refuse("a mark is not 12 octets in base64url")
		}
		l.marks[Mark(b)] = struct{}{}
	}
	return l, nil
}

// Has reports whether the list ends c.
func (l *List) Has(c Claims) bool {
	if c.IssuedAt < l.Floor {
		return true
	}
	for _, m := range c.Marks() {
		if _, ok := l.marks[m]; ok {
			return true
		}
	}
	return false
}

// A Feed keeps the newest list. Run fetches it; until it has, nothing can be said.
type Feed struct {
	address, issuer string
	keys            Keys
	client          *http.Client
	now             func() time.Time
	// Grace is how long past its end a list is used while the issuer is away. Zero: not at all. It is set before Run.
	Grace time.Duration

	mu   sync.RWMutex // guards list and tag
	list *List
	tag  string
}

// NewFeed returns the feed at address of what issuer ended. The timeout of client must be longer than 20 s: a request waits so
// long for something new.
func NewFeed(address, issuer string, keys Keys, client *http.Client, now func() time.Time) *Feed {
	return &Feed{address: address, issuer: issuer, keys: keys, client: client, now: now}
}

// waitFor is how long a request may wait for something new.
const waitFor = 20 * time.Second

// Run fetches the list until ctx ends: again as soon as it changes.
func (f *Feed) Run(ctx context.Context) {
	const pause, retry = 50 * time.Millisecond, time.Second
	for ctx.Err() == nil {
		wait := pause // replicas that do not yet agree would answer each request at once
		if f.Fetch(ctx) != nil {
			wait = retry
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
}

// Fetch waits for a list that says something else than the present one, or reads it anew where it is half over.
func (f *Feed) Fetch(ctx context.Context) error {
	f.mu.RLock()
	tag, had := f.tag, f.list
	f.mu.RUnlock()
	header := http.Header{"Accept": {"application/jwt"}}
	if had != nil && tag != "" && 2*f.now().Unix() < had.IssuedAt+had.Expires {
		header["If-None-Match"] = []string{tag}
		header["Prefer"] = []string{"wait=" + strconv.Itoa(int(waitFor.Seconds()))} // RFC 7240 §4.3
	}
	b, tag, err := get(ctx, f.client, f.address, header)
	if errors.Is(err, errSame) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading what has ended: %w", err)
	}
	next, err := ParseList(ctx, string(b), f.issuer, f.keys)
	if err != nil {
		return err
	}
	if had != nil && next.IssuedAt+int64(apart/time.Second) < had.IssuedAt {
		return errors.New("list of ended tokens: older than the one before it")
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.list, f.tag = next, tag
	return nil
}

// apart is how far the clocks of the issuer's replicas may be.
const apart = 5 * time.Second

// Has implements Ended.
func (f *Feed) Has(c Claims) (bool, error) {
	f.mu.RLock()
	l := f.list
	f.mu.RUnlock()
	if l == nil || f.now().Add(-f.Grace).Unix() >= l.Expires {
		return false, fmt.Errorf("%w: the list of what has ended is missing or too old", ErrUnavailable)
	}
	return l.Has(c), nil
}
