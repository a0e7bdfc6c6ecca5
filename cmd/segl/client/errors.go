package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A Problem is a refusal as the server explains it (RFC 9457).
type Problem struct {
	Type     string `json:"type"`
	Title    string `json:"title"`
	Status   int    `json:"status"`
	Detail   string `json:"detail"`
	Instance string `json:"instance"`
	Rule     string `json:"rule"`
	Remedy   string `json:"remedy"`

	after time.Duration
}

// Error says what was refused: the title, and the detail of this occurrence.
func (p *Problem) Error() string {
	s := p.Title
	if p.Detail != "" {
		s += ": " + p.Detail
	}
	return s
}

// Is reports whether p's type ends in name, as in "already-revoked".
func (p *Problem) named(name string) bool { return strings.HasSuffix(p.Type, ":"+name) }

// Named reports whether err is a Problem whose type ends in name.
func Named(err error, name string) bool {
	p, ok := errors.AsType[*Problem](err)
	return ok && p.named(name)
}

// Definite reports whether err says for certain that the request did nothing: it was understood and refused.
func Definite(err error) bool {
	p, ok := errors.AsType[*Problem](err)
	return ok && p.Status >= 400 && p.Status < 500 && p.Status != http.StatusRequestTimeout && p.Status != http.StatusTooManyRequests
}

// An Unreachable is a server that gave no answer. A write may have happened nevertheless.
type Unreachable struct {
	URL string
	Err error
}

// Error says whom, and why.
func (u *Unreachable) Error() string { return fmt.Sprintf("reaching %s: %v", u.URL, u.Err) }

// Unwrap returns the cause.
func (u *Unreachable) Unwrap() error { return u.Err }

// Hint says what would help, or nothing.
func (u *Unreachable) Hint() string {
	if _, ok := errors.AsType[x509.UnknownAuthorityError](u.Err); ok {
		return "the server's certificate is not from the root in --root or SEGL_ROOT: is that the right file, and the right server?"
	}
	if _, ok := errors.AsType[x509.HostnameError](u.Err); ok {
		return "use a host name that the server's certificate carries"
	}
	if _, ok := errors.AsType[x509.CertificateInvalidError](u.Err); ok {
		return "compare the clocks of this machine and the server: segl doctor"
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](u.Err); ok {
		return "this is no TLS listener: compare the URL with the server's listeners"
	}
	if _, ok := errors.AsType[*net.DNSError](u.Err); ok {
		return "check the host name in the URL"
	}
	switch {
	case errors.Is(u.Err, syscall.ECONNREFUSED):
		return "is segl running there? segl doctor tells what it lacks"
	case errors.Is(u.Err, context.DeadlineExceeded):
		return "try again, or allow more with --timeout"
	}
	return ""
}

// Patience: what is temporary is asked again for about this long, unless the context ends before.
const (
	maxAttempts = 6
	dialTries   = 3
	firstPause  = 200 * time.Millisecond
	longestWait = 20 * time.Second
)

// retry says whether to ask r again after err, and how long to wait before.
func (r *Request) retry(err error, attempt int) (pause time.Duration, again bool) {
	if r.Once {
		return 0, false
	}
	if p, ok := errors.AsType[*Problem](err); ok {
		temporary := p.Status == http.StatusServiceUnavailable || p.Status == http.StatusTooManyRequests
		if !temporary || !r.repeatable() || attempt >= maxAttempts || p.after > longestWait {
			return 0, false
		}
		if p.after > 0 {
			return p.after + rand.N(p.after/4+firstPause), true //nolint:gosec // jitter, not a secret
		}
		return backoff(attempt), true
	}
	u, ok := errors.AsType[*Unreachable](err)
	if !ok || attempt >= dialTries {
		return 0, false
	}
	return backoff(attempt), transient(u.Err) && (r.repeatable() || unsent(u.Err))
}

// transient reports whether asking again might help: the server may be restarting.
func transient(err error) bool {
	return unsent(err) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

// unsent reports whether the request cannot have arrived.
func unsent(err error) bool { return errors.Is(err, syscall.ECONNREFUSED) }

func backoff(attempt int) time.Duration {
	d := min(firstPause<<(attempt-1), longestWait)
	return d/2 + rand.N(d) //nolint:gosec // jitter, not a secret
}

// retryAfter reads Retry-After in seconds (RFC 9110 §10.2.3); segl never sends a date there.
func retryAfter(h http.Header) time.Duration {
	n, err := strconv.ParseUint(h.Get("Retry-After"), 10, 16)
	if err != nil {
		return 0
	}
	return time.Duration(n) * time.Second //nolint:gosec // sixteen bits
}
