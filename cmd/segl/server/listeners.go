package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"time"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/postgres"
	"codeberg.org/dataverket/segl/internal/web"
)

// Addresses say where a running server is reached.
type Addresses struct {
	Service, Operator, Public, Private string // base URLs
}

// listeners are bound before anything needs to know its own URL.
type listeners struct{ service, operator, public, private net.Listener }

func (l *listeners) close() {
	for _, ln := range []net.Listener{l.service, l.operator, l.public, l.private} {
		if ln != nil {
			ln.Close() //nolint:errcheck // closed by its server already, as a rule
		}
	}
}

func (l *listeners) addresses(c Config) Addresses {
	return Addresses{c.URLs.Service, c.URLs.Operator, c.URLs.Public, "http://" + l.private.Addr().String()}
}

// openListeners binds all four addresses and derives the base URLs that are not configured.
func (s *Server) openListeners(ctx context.Context) error {
	for _, l := range []struct {
		name, addr, scheme string
		ln                 *net.Listener
		url                *string
	}{
		{"service", s.cfg.Listen.Service, "https://", &s.listen.service, &s.cfg.URLs.Service},
		{"operator", s.cfg.Listen.Operator, "https://", &s.listen.operator, &s.cfg.URLs.Operator},
		{"public", s.cfg.Listen.Public, "http://", &s.listen.public, &s.cfg.URLs.Public},
		{"private", s.cfg.Listen.Private, "http://", &s.listen.private, new(string)},
	} {
		var lc net.ListenConfig
		ln, err := lc.Listen(ctx, "tcp", l.addr)
		if err != nil {
			return fmt.Errorf("opening the %s listener: %w", l.name, err)
		}
		*l.ln = ln
		if a, ok := ln.Addr().(*net.TCPAddr); ok && l.name == "private" && !a.IP.IsLoopback() {
			return fmt.Errorf("opening the private listener on %s: it shows profiles and metrics; use a loopback address", l.addr)
		}
		if *l.url == "" {
			*l.url = l.scheme + reachable(ln.Addr().String())
		}
	}
	return nil
}

// reachable turns the address of a listener on every interface into one that can be connected to.
func reachable(addr string) string {
	host, port, err := net.SplitHostPort(addr)
	if ip := net.ParseIP(host); err == nil && ip.IsUnspecified() {
		return net.JoinHostPort("localhost", port)
	}
	return addr
}

// servers puts the doors on the listeners. The private one is last: readiness is read to the end.
func (s *Server) servers() ([]web.Listening, error) {
	clients := &web.Clients{
		Roots: s.roots.Load, Domain: s.cfg.TrustDomain, Admit: s.admit, Name: s.access.NameTenant, Tokens: s.tokens,
	}
	operators := *clients // on the service listener an operator is nobody in particular
	operators.Name, operators.Refused = s.access.Name, s.turnedAway
	secure := &web.TLS{GetCertificate: s.selfcert.GetCertificate}
	d, err := s.openDoors()
	if err != nil {
		return nil, err
	}
	var all []web.Listening
	for _, l := range []struct {
		cfg   web.Config
		ln    net.Listener
		doors []web.Door
	}{
		{web.Config{Name: "service", TLS: secure, Clients: clients, Wall: s.tenantsWall}, s.listen.service, d.service},
		{web.Config{Name: "operator", TLS: secure, Clients: &operators, Wall: s.officeWall}, s.listen.operator, d.operator},
		{web.Config{Name: "public", Wall: ownersWork}, s.listen.public, s.publicDoors()},
		{web.Config{Name: "private", Wall: ownersWork}, s.listen.private, []web.Door{web.Private(s.health, s.registry), s.findingsDoor()}},
	} {
		l.cfg.Log, l.cfg.Metrics, l.cfg.Now = s.log, s.metrics, s.now
		server, err := web.NewServer(l.cfg, l.doors...)
		if err != nil {
			return nil, fmt.Errorf("making the %s listener's server: %w", l.cfg.Name, err)
		}
		all = append(all, web.Listening{Server: server, Listener: l.ln})
	}
	return all, nil
}

// answering waits until every listener answers a request.
func (s *Server) answering(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: s.roots.Load(), ServerName: s.ownNames()[0], Time: s.now, MinVersion: tls.VersionTLS13}, DisableKeepAlives: true,
	}}
	for name, base := range map[string]string{
		"service": "https://" + reachable(s.listen.service.Addr().String()), "operator": "https://" + reachable(s.listen.operator.Addr().String()),
		"public": "http://" + reachable(s.listen.public.Addr().String()), "private": "http://" + s.listen.private.Addr().String(),
	} {
		if err := answers(ctx, client, base); err != nil {
			return fmt.Errorf("waiting for the %s listener: %w", name, err)
		}
	}
	return nil
}

func answers(ctx context.Context, client *http.Client, base string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/", nil)
	if err != nil {
		return err
	}
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	return res.Body.Close()
}

// own issues the listeners' own certificates.
type own struct{ ca *ca.CA }

// IssueServer implements selfcert.Authority.
func (o own) IssueServer(ctx context.Context, csr *x509.CertificateRequest) ([]byte, error) {
	req, err := cert.ParseRequest(csr.Raw)
	if err != nil {
		return nil, err
	}
	c, err := o.ca.Issue(postgres.AsOwner(ctx), identity.System("listeners"), ca.Request{Scope: identity.Platform, Profile: "server", CSR: req, Life: 7 * 24 * time.Hour, Own: true})
	if err != nil {
		return nil, err
	}
	var chain []byte
	for _, der := range append([][]byte{c.DER}, c.Chain...) {
		chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	return chain, nil
}
