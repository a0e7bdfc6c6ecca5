package doctor

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"time"

	"codeberg.org/dataverket/segl/cmd/segl/chain"
	"codeberg.org/dataverket/segl/cmd/segl/client"
)

// trust is what the certificates on this machine say.
type trust struct {
	roots []*x509.Certificate
	paths [][]*x509.Certificate // of our identities, each up to a root
}

// Notice: how long before its end something is worth a finding.
const (
	rootNotice  = 90 * 24 * time.Hour
	leafNotice  = 6 // sixths of a life
	clockNotice = 30 * time.Second
)

func (x *examination) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	for _, c := range x.trust.roots {
		pool.AddCert(c)
	}
	return pool
}

func (x *examination) checkRoot() {
	if x.Root == "" {
		return
	}
	const fix = "fetch the roots again from /roots.pem of the public listener, and compare their fingerprints with the operators'"
	certs, err := chain.Read(x.Root)
	if err != nil {
		x.add(ill("root", err, fix))
		return
	}
	for _, c := range certs {
		if !c.IsCA {
			x.add(ill("root", fmt.Errorf("%s is no authority", chain.Title(c)), fix))
			continue
		}
		x.trust.roots = append(x.trust.roots, c)
		if x.Now().Before(c.NotBefore) || x.Now().Add(rootNotice).After(c.NotAfter) {
			x.add(ill("root", fmt.Errorf("%s is valid from %s to %s", chain.Title(c), stamp(c.NotBefore), stamp(c.NotAfter)), "check this machine's clock; ask for the next root"))
			continue
		}
		x.add(well("root", "%s until %s", chain.Title(c), stamp(c.NotAfter)))
	}
}

// checkIdentity looks at a certificate that is shown to the server.
func (x *examination) checkIdentity(id Identity) {
	if id.Chain == "" {
		return
	}
	check := id.Name + " identity"
	if _, err := id.Load(); err != nil {
		x.add(ill(check, err, "enroll again: segl enroll --token TOKEN --out PREFIX"))
		return
	}
	certs, err := chain.Read(id.Chain)
	if err != nil {
		x.add(ill(check, err, ""))
		return
	}
	between := x509.NewCertPool()
	for _, c := range certs[1:] {
		between.AddCert(c)
	}
	path, err := chain.Verify(certs[0], x509.VerifyOptions{
		Roots: x.pool(), Intermediates: between, CurrentTime: x.Now(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, nil)
	if err != nil {
		x.add(ill(check, err, "enroll again: segl enroll --token TOKEN --out PREFIX"))
		return
	}
	if len(path) > 1 { // else it is an anchor itself: nobody's list or OCSP speaks of it
		x.trust.paths = append(x.trust.paths, path)
	}
	if x.nearEnd(certs[0]) {
		x.add(ill(check, fmt.Errorf("%s ends %s", chain.Title(certs[0]), stamp(certs[0].NotAfter)), "renew it: segl cert renew --cert "+id.Chain+" --key "+id.Key))
		return
	}
	x.add(well(check, "%s until %s", chain.Title(certs[0]), stamp(certs[0].NotAfter)))
}

// nearEnd reports whether the last sixth of c's life has begun.
func (x *examination) nearEnd(c *x509.Certificate) bool {
	return x.Now().After(c.NotAfter.Add(-c.NotAfter.Sub(c.NotBefore) / leafNotice))
}

// checkListener connects, and looks at the certificate and the clock at the other end.
func (x *examination) checkListener(ctx context.Context, l Listener) {
	if l.URL == "" {
		return
	}
	check := l.Name + " listener"
	c, err := client.New(client.Config{URL: l.URL, Roots: x.pool(), UserAgent: x.Agent, Now: x.Now})
	if err != nil {
		x.add(ill(check, err, ""))
		return
	}
	defer c.Close()
	asked := x.Now()
	_, header, err := c.Fetch(ctx, client.Request{Method: http.MethodGet, Path: "/openapi.json"})
	if header == nil {
		x.add(ill(check, err, ""))
		return
	}
	leaf, err := x.presented(ctx, l.URL)
	switch {
	case err != nil:
		x.add(ill(check, err, ""))
		return
	case x.nearEnd(leaf):
		x.add(ill(check, fmt.Errorf("its certificate ends %s", stamp(leaf.NotAfter)), "see the server's log: it renews its own certificates"))
		return
	}
	x.add(well(check, "%s answers; its certificate is good until %s", l.URL, stamp(leaf.NotAfter)))
	if date, err := http.ParseTime(header.Get("Date")); err == nil {
		x.clock(check+" clock", asked, date)
	}
}

// clock compares this machine's clock with another, whose answer is in whole seconds.
func (x *examination) clock(check string, asked, theirs time.Time) {
	skew := theirs.Sub(asked.Truncate(time.Second)).Truncate(time.Second)
	if skew.Abs() > clockNotice {
		x.add(ill(check, fmt.Errorf("it differs from this machine's by %s", skew), "set both clocks: timedatectl set-ntp true"))
		return
	}
	x.add(well(check, "within %s of this machine's", clockNotice))
}

// presented returns the certificate that a TLS listener shows.
func (x *examination) presented(ctx context.Context, base string) (*x509.Certificate, error) {
	u, err := url.Parse(base)
	if err != nil || u.Scheme != "https" {
		return nil, fmt.Errorf("%s: want https://host:port", base)
	}
	host := u.Host
	if u.Port() == "" {
		host = net.JoinHostPort(u.Hostname(), "443")
	}
	d := tls.Dialer{Config: &tls.Config{RootCAs: x.pool(), MinVersion: tls.VersionTLS13, Time: x.Now}}
	conn, err := d.DialContext(ctx, "tcp", host)
	if err != nil {
		return nil, &client.Unreachable{URL: base, Err: err}
	}
	defer conn.Close() //nolint:errcheck // nothing was sent
	return conn.(*tls.Conn).ConnectionState().PeerCertificates[0], nil
}
