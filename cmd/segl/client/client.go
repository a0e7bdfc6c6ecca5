// Package client speaks to a running segl over its HTTP API, for the command line and the agent.
//
// It trusts the roots it is given and no others, speaks TLS 1.3 or nothing, follows no redirect and uses no proxy: a
// certificate authority is reached directly. What the server says is temporary is asked again, a bounded number of
// times and with jitter; a write is only repeated where repeating is safe, because it carries an Idempotency-Key or is
// idempotent by itself. Problems (RFC 9457) come back as *Problem, an unreachable server as *Unreachable.
//
// A Client is safe for concurrent use.
package client

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"time"
)

// A Config says whom to talk to, and as whom.
type Config struct {
	URL         string           // base URL
	Roots       *x509.CertPool   // for https; nobody else is trusted
	Certificate *tls.Certificate // shown when the server asks; nil: none
	// Token returns the access token that is sent in place of a certificate; it is asked for each request. Nil: none.
	Token     func(context.Context) (string, error)
	UserAgent string
	Now       func() time.Time // judges the server's certificate; nil: the machine's clock
	// Wait waits before asking again; nil: by the machine's clock.
	Wait func(context.Context, time.Duration) error
}

// Bounds of one exchange.
const (
	attemptTime = 20 * time.Second
	dialTime    = 10 * time.Second
	maxAnswer   = 64 << 20
)

// A Client is one connection pool to one server, as one caller.
type Client struct {
	base  *url.URL
	http  *http.Client
	agent string
	token func(context.Context) (string, error)
	wait  func(context.Context, time.Duration) error
}

// New returns a client. It connects to nothing.
func New(c Config) (*Client, error) {
	base, err := url.Parse(c.URL)
	if err != nil || base.Host == "" || base.Scheme != "https" && base.Scheme != "http" || base.RawQuery != "" || base.User != nil {
		return nil, fmt.Errorf("url %.200q: want https://host:port, or http:// for the public and private listeners", c.URL)
	}
	if c.Token != nil && base.Scheme != "https" { // RFC 6750 §5.3
		return nil, fmt.Errorf("url %.200q: an access token is sent over https alone", c.URL)
	}
	t := &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: c.Roots, Time: c.Now}
	if t.RootCAs == nil {
		t.RootCAs = x509.NewCertPool() // an empty pool trusts nobody; nil would trust the machine's
	}
	if c.Certificate != nil {
		// Shown whatever authorities the server lists: it may be about to learn of ours (RFC 8446 §4.2.4 is a hint).
		t.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return c.Certificate, nil }
	}
	if c.Wait == nil {
		c.Wait = wait
	}
	return &Client{
		base: base, agent: c.UserAgent, token: c.Token, wait: c.Wait,
		http: &http.Client{
			Transport: &http.Transport{
				TLSClientConfig: t, ForceAttemptHTTP2: true, TLSHandshakeTimeout: dialTime, ResponseHeaderTimeout: attemptTime,
				IdleConnTimeout: time.Minute, MaxIdleConnsPerHost: 16,
			},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}, nil
}

func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}

// URL returns the base URL.
func (c *Client) URL() string { return c.base.String() }

// Close lets go of idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// A Request is one operation.
type Request struct {
	Method string
	Path   string // escaped
	Query  url.Values
	Body   any // sent as JSON; nil: none
	// Idempotent says that repeating the request after a lost answer is harmless by itself. GET always is.
	Idempotent bool
	// Key is the Idempotency-Key, which makes repeating harmless. Empty: none.
	Key string
	// Raw is sent in place of Body, as media type Type.
	Raw  []byte
	Type string
	// Once asks only once, whatever the answer.
	Once bool
}

// NewKey returns a fresh Idempotency-Key.
func NewKey() string { return rand.Text() }

func (r *Request) repeatable() bool {
	return r.Idempotent || r.Key != "" || r.Method == http.MethodGet || r.Method == http.MethodHead
}

// Do asks, and decodes the answer into out unless that is nil.
func (c *Client) Do(ctx context.Context, r Request, out any) error {
	body, _, err := c.Fetch(ctx, r)
	if err != nil || out == nil {
		return err
	}
	if err := json.Unmarshal(body, out); err != nil {
		return fmt.Errorf("reading the answer of %s: %w", c.base.Host, err)
	}
	return nil
}

// Fetch asks, and returns the bytes of the answer with its header, which a refusal has too. It asks again as long as that is safe, might help
// and is allowed by ctx.
func (c *Client) Fetch(ctx context.Context, r Request) ([]byte, http.Header, error) {
	if r.Body != nil {
		var err error
		if r.Raw, err = json.Marshal(r.Body); err != nil {
			return nil, nil, fmt.Errorf("encoding the request: %w", err)
		}
		r.Type = "application/json"
	}
	for attempt := 1; ; attempt++ {
		body, header, err := c.once(ctx, r)
		pause, again := r.retry(err, attempt)
		if !again {
			return body, header, err
		}
		if c.wait(ctx, pause) != nil { // there is no time left: say what was wrong, not that time is short
			return body, header, err
		}
	}
}

func (c *Client) once(ctx context.Context, r Request) ([]byte, http.Header, error) {
	ctx, cancel := context.WithTimeout(ctx, attemptTime)
	defer cancel()
	req, err := c.request(ctx, r)
	if err != nil {
		return nil, nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, nil, c.unreachable(err)
	}
	defer resp.Body.Close() //nolint:errcheck // it was read as far as it interests
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return nil, nil, c.unreachable(err)
	case len(body) > maxAnswer:
		return nil, nil, fmt.Errorf("reading the answer of %s: longer than %d octets", c.base.Host, maxAnswer)
	case resp.StatusCode/100 == 2:
		return body, resp.Header, nil
	}
	return body, resp.Header, problem(resp, body)
}

func (c *Client) request(ctx context.Context, r Request) (*http.Request, error) {
	u := c.base.JoinPath(r.Path)
	u.RawQuery = r.Query.Encode()
	var reader io.Reader
	if r.Raw != nil {
		reader = bytes.NewReader(r.Raw)
	}
	req, err := http.NewRequestWithContext(ctx, r.Method, u.String(), reader)
	if err != nil {
		return nil, fmt.Errorf("making a request: %w", err)
	}
	if r.Type != "" {
		req.Header.Set("Content-Type", r.Type)
	}
	if r.Key != "" {
		req.Header.Set("Idempotency-Key", r.Key)
	}
	if c.token != nil {
		token, err := c.token(ctx)
		if err != nil {
			return nil, err
		}
		req.Header.Set("Authorization", "Bearer "+token) // RFC 6750 §2.1
	}
	if c.agent != "" {
		req.Header.Set("User-Agent", c.agent)
	}
	req.Header.Set("Accept", "application/json, application/problem+json, */*;q=0.5")
	return req, nil
}

func (c *Client) unreachable(err error) error {
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err // the method and the whole URL are said already, or need not be
	}
	return &Unreachable{c.base.String(), err}
}

// problem reads a problem document (RFC 9457 §3), or makes one of an answer that has none.
func problem(resp *http.Response, body []byte) error {
	p := &Problem{}
	media, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if media != "application/problem+json" || json.Unmarshal(body, p) != nil || p.Title == "" {
		*p = Problem{Title: "the server answered " + resp.Status}
	}
	p.Status = resp.StatusCode // "the generator MUST use the same status code in the actual HTTP response" (RFC 9457 §3.1.2)
	p.after = retryAfter(resp.Header)
	return p
}
