package remote

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"codeberg.org/dataverket/segl/acme"
)

// A Perspective is a place elsewhere. It implements Elsewhere.
type Perspective struct {
	name   string
	base   string
	client *http.Client
}

// NewPerspective returns the perspective at base, an https URL, that calls itself what cfg verifies (see Peer).
func NewPerspective(name, base string, cfg *tls.Config) (*Perspective, error) {
	u, err := url.Parse(base)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.User != nil {
		return nil, fmt.Errorf("perspective %s: %q: want https://host[:port]", name, base)
	}
	return &Perspective{name: name, base: base, client: &http.Client{
		Timeout: patience,
		Transport: &http.Transport{
			TLSClientConfig: cfg, ForceAttemptHTTP2: true, MaxConnsPerHost: 64, MaxIdleConnsPerHost: 16, IdleConnTimeout: time.Minute,
			TLSHandshakeTimeout: 5 * time.Second, MaxResponseHeaderBytes: maxMessage,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// Name implements Elsewhere.
func (p *Perspective) Name() string { return p.name }

// Validate implements Elsewhere.
func (p *Perspective) Validate(ctx context.Context, c acme.Check) (*acme.Problem, error) {
	return p.put(ctx, validatePath, c)
}

// Permit implements Elsewhere.
func (p *Perspective) Permit(ctx context.Context, c acme.Check) (*acme.Problem, error) {
	return p.put(ctx, permitPath, c)
}

// Close lets go of idle connections.
func (p *Perspective) Close() { p.client.CloseIdleConnections() }

func (p *Perspective) put(ctx context.Context, path string, c acme.Check) (*acme.Problem, error) {
	body, err := json.Marshal(ask(c))
	if err != nil {
		return nil, fmt.Errorf("asking perspective %s: %w", p.name, err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.base+path, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("asking perspective %s: %w", p.name, err)
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := p.client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("asking perspective %s: %w", p.name, err)
	}
	defer res.Body.Close() //nolint:errcheck // read to the end of our interest
	var f finding
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("asking perspective %s: %w: status %d", p.name, errAnswer, res.StatusCode)
	}
	if err := read(res.Body, &f); err != nil {
		return nil, fmt.Errorf("asking perspective %s: %w", p.name, errAnswer)
	}
	return f.Problem, nil
}
