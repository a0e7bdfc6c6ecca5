package web

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/policy"
)

// Clients says how a listener knows its callers.
//
// The handshake asks for a certificate and proves possession of its key; the chain is verified here, when a request
// first needs a name, and not in the handshake. So a client whose certificate has expired gets a problem that says so in
// place of a closed connection, may still enrol, and a resumed session or a connection that outlives the trust anchors
// is judged by today's.
type Clients struct {
	Roots  func() *x509.CertPool // the trust anchors of the moment; a new pool is a new pointer
	Domain string                // the SPIFFE trust domain
	// Name, where there, completes a caller whose evidence was found good, at every request: with what it was granted. It does
	// no I/O.
	Name func(identity.Caller) identity.Caller
	// Tokens judge access tokens, by the issuer that these say they are from. Nil: certificates alone are evidence.
	Tokens map[string]Verifier
	// Admit, where there, is asked at every request of a named caller, as whether the certificate has been revoked. It
	// must be quick. Its error is the answer.
	Admit func(context.Context, identity.Caller) error
	// Refused, where there, writes down that a route turned somebody away who was named. Its error is the answer.
	Refused func(ctx context.Context, who identity.Caller, at identity.Scope, why *policy.Refusal) error
}

// A peer is one connection: who is at its other end, found out once.
type peer struct {
	remote netip.Addr
	text   string

	mu    sync.Mutex
	roots *x509.CertPool // that who was judged by
	who   identity.Caller
	until time.Time // after which who is nobody
	why   error     // there is no who

	bearer identity.Caller // whose certificate it is at least; zero where not even that is known
}

type peerKey struct{}

func withPeer(ctx context.Context, conn net.Conn) context.Context {
	p := &peer{}
	if ap, err := netip.ParseAddrPort(conn.RemoteAddr().String()); err == nil {
		p.remote = ap.Addr().Unmap().WithZone("")
		p.text = p.remote.String()
	}
	return context.WithValue(ctx, peerKey{}, p)
}

var errNoCertificate = errors.New("no client certificate was shown")

// caller returns who is at the other end, verifying the chain if nobody has yet. A route for bearers takes less.
func (p *peer) caller(cs *tls.ConnectionState, k *Clients, now time.Time, a Access) (identity.Caller, error) {
	if k == nil || cs == nil || len(cs.PeerCertificates) == 0 {
		return identity.Caller{}, errNoCertificate
	}
	roots := k.Roots()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.roots != roots || (p.why == nil && now.After(p.until)) {
		p.roots = roots
		p.who, p.why = k.verify(cs.PeerCertificates, roots, now)
		p.bearer = p.who
		if p.why != nil {
			p.bearer = bearer(cs.PeerCertificates, roots, now)
		}
		p.until = cs.PeerCertificates[0].NotAfter
	}
	if a == Bearer && !p.bearer.Serial.IsZero() && !now.After(p.until) {
		return p.bearer, nil
	}
	return p.who, p.why
}

// bearer returns whose certificate it is, for whatever that is good, or nobody.
func bearer(chain []*x509.Certificate, roots *x509.CertPool, now time.Time) identity.Caller {
	serial, err := cert.SerialFromInt(chain[0].SerialNumber)
	if err != nil || judge(chain, roots, now, x509.ExtKeyUsageAny) != nil || chain[0].IsCA {
		return identity.Caller{}
	}
	return identity.Caller{Actor: "certificate:" + serial.String(), Serial: serial}
}

// judge verifies a chain as RFC 5280 §6 does.
func judge(chain []*x509.Certificate, roots *x509.CertPool, now time.Time, usage x509.ExtKeyUsage) error {
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{usage}})
	return err
}

// verify judges a chain for a TLS client (RFC 5280 §4.2.1.12, id-kp-clientAuth).
func (k *Clients) verify(chain []*x509.Certificate, roots *x509.CertPool, now time.Time) (identity.Caller, error) {
	if err := judge(chain, roots, now, x509.ExtKeyUsageClientAuth); err != nil {
		return identity.Caller{}, explainChain(chain[0], err)
	}
	who, err := identity.FromCertificate(chain[0], k.Domain)
	if err != nil {
		return identity.Caller{}, err
	}
	return who, nil
}

// explainChain says what is wrong with a client's certificate in words its holder can act on.
func explainChain(leaf *x509.Certificate, err error) error {
	if bad, ok := errors.AsType[x509.CertificateInvalidError](err); ok {
		switch bad.Reason {
		case x509.Expired:
			return fmt.Errorf("client certificate: not valid now, only from %s to %s (RFC 5280 §4.1.2.5): enrol again, or set the clock",
				leaf.NotBefore.UTC().Format(time.RFC3339), leaf.NotAfter.UTC().Format(time.RFC3339))
		case x509.IncompatibleUsage:
			return errors.New("client certificate: not made for clients (RFC 5280 §4.2.1.12): use one of profile workload or client")
		}
	}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return errors.New("client certificate: issued by an authority not trusted here, or sent without its intermediate")
	}
	return errors.New("client certificate: its chain does not verify (RFC 5280 §6)")
}

// name finds out who asks, and whether the route admits them.
func (c *call) name(a Access) error {
	who, err := c.evidence(c.r.Context(), c.begun, a)
	if f, ok := errors.AsType[*Fault](err); ok {
		c.challenge(f)
		return f
	}
	if err == nil && !who.Serial.IsZero() && c.server.clients.Admit != nil {
		if refusal := c.server.clients.Admit(c.r.Context(), who); refusal != nil && a != Anyone {
			return refusal
		} else if refusal != nil {
			who = identity.Caller{} // who comes with a revoked certificate may still do what a stranger may
		}
	}
	who.Remote, who.Request = c.peer.remote, c.id
	c.who = who
	switch {
	case a == Anyone:
		return nil
	case err != nil:
		f := &Fault{
			Status: http.StatusUnauthorized, Name: "certificate-required", Title: "A valid client certificate is needed",
			Detail: err.Error(), Remedy: "connect with a current certificate of this service, with its chain",
		}
		c.challenge(f)
		return f
	}
	return nil
}

// evidence returns who the certificate or the token of a request names. A *Fault is the answer, whoever the route admits: a
// request with a token that is not good is not taken for a stranger's.
func (c *call) evidence(ctx context.Context, now time.Time, a Access) (identity.Caller, error) {
	k := c.server.clients
	if k == nil {
		return identity.Caller{}, errNoCertificate // nobody is known here, and nobody needs to be
	}
	token, there, err := presented(c.r)
	if err != nil {
		return identity.Caller{}, err
	}
	who, err := c.peer.caller(c.r.TLS, k, now, a)
	if there {
		var leaf *x509.Certificate
		if c.r.TLS != nil && len(c.r.TLS.PeerCertificates) > 0 {
			leaf = c.r.TLS.PeerCertificates[0]
		}
		serial := who.Serial
		if who, err = k.bearer(ctx, token, leaf, err == nil); err != nil {
			return identity.Caller{}, err
		}
		who.Serial = serial // of the certificate that the token is bound to: writes refuse it once it is revoked
	}
	if err == nil && k.Name != nil {
		who = k.Name(who)
	}
	return who, err
}

// challenge says how to be known. RFC 9110 §15.5.2: "The server generating a 401 response MUST send a WWW-Authenticate header
// field"; RFC 6750 §3.1 has the words for tokens.
func (c *call) challenge(f *Fault) {
	if f.Status != http.StatusUnauthorized {
		return
	}
	list := []string{`TLS-Client-Certificate realm="segl"`}
	switch k := c.server.clients; {
	case f.Name == "bad-token":
		list = append(list, `Bearer realm="segl", error="invalid_token"`)
	case k != nil && len(k.Tokens) > 0:
		list = append(list, `Bearer realm="segl"`)
	}
	c.Header()["Www-Authenticate"] = list
}
