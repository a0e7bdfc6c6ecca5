package validate

import (
	"bufio"
	"context"
	"crypto/subtle"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"codeberg.org/dataverket/segl/acme"
	"codeberg.org/dataverket/segl/internal/cert"
)

// Bounds of http-01.
const (
	maxRedirects      = 10       // as public CAs do
	maxBody           = 1 << 10  // a key authorization has 66 octets or a few more
	maxResponse       = 64 << 10 // header and body of one answer
	maxURL            = 2 << 10
	maxInterimAnswers = 5
)

// http01 fetches the key authorization from the host (RFC 8555 §8.3).
func (r *reach) http01(ctx context.Context, c acme.Check) (acme.Evidence, *acme.Problem) {
	at := hop{name: c.Name, url: &url.URL{Scheme: "http", Host: hostOf(c.Name), Path: "/.well-known/acme-challenge/" + c.Token}, port: r.httpPort}
	var seen acme.Evidence
	for {
		answer, p := r.fetch(ctx, at)
		if p != nil {
			return acme.Evidence{}, p
		}
		if answer.location == "" {
			seen.Remote = answer.remote
			return seen, judge(answer, at, seen, c)
		}
		if len(seen.Via) == maxRedirects {
			return acme.Evidence{}, refuse(acme.Connection, "fetching %s: more than %d redirects", at, maxRedirects)
		}
		if at, p = r.follow(at, answer.location, c.Name); p != nil {
			return acme.Evidence{}, p
		}
		seen.Via = append(seen.Via, at.String())
	}
}

// judge compares the last answer with the key authorization. After a redirect it says nothing of what it read: whoever sent
// us there could else see, through us, what only we can reach.
func judge(a answer, at hop, seen acme.Evidence, c acme.Check) *acme.Problem {
	// RFC 8555 §8.3: "The server SHOULD ignore whitespace characters at the end of the body."
	got := strings.TrimRight(a.body, " \t\r\n")
	matches := subtle.ConstantTimeCompare([]byte(got), []byte(c.KeyAuthorization)) == 1
	switch {
	case a.status == http.StatusOK && matches:
		return nil
	case len(seen.Via) > 0:
		return refuse(acme.IncorrectResponse, "%s, where redirects led, does not hold the key authorization %q (RFC 8555 §8.3)", at, c.KeyAuthorization)
	case a.status != http.StatusOK:
		return refuse(acme.Unauthorized, "fetching %s from %s: status %d, want 200 (RFC 8555 §8.3)", at, a.remote, a.status)
	}
	return refuse(acme.IncorrectResponse, "%s at %s holds %q, want the key authorization %q (RFC 8555 §8.3)", at, a.remote,
		printable(got), c.KeyAuthorization)
}

// A hop is one URL of the way, with the name and port that are connected to.
type hop struct {
	name cert.Name
	url  *url.URL
	port uint16
}

func (h hop) String() string { return printable(h.url.String()) }

// hostOf returns a name as it stands in a URL and in Host.
func hostOf(n cert.Name) string {
	if n.Kind() == cert.IP && n.Addr().Is6() {
		return "[" + n.Value() + "]"
	}
	return n.Value()
}

// follow checks where a redirect leads. Only http and https on their own ports (or ours, for tests) are followed, so that
// validation cannot be used to speak to other services.
func (r *reach) follow(from hop, location string, asked cert.Name) (hop, *acme.Problem) {
	stop := func(why string) (hop, *acme.Problem) {
		return hop{}, refuse(acme.Connection, "fetching %s: redirect to %q is not followed: %s", from, printable(location), why)
	}
	if len(location) > maxURL {
		return stop("longer than 2048 octets")
	}
	u, err := from.url.Parse(location)
	if err != nil {
		return stop("not a URL")
	}
	own, usual := r.httpPort, uint16(80)
	switch u.Scheme {
	case "http":
	case "https":
		own, usual = r.tlsPort, 443
	default:
		return stop("its scheme is not http or https")
	}
	if u.User != nil || u.Opaque != "" {
		return stop("it carries credentials or has no host")
	}
	to := hop{url: u, port: own}
	if s := u.Port(); s != "" {
		n, err := strconv.ParseUint(s, 10, 16)
		if err != nil || uint16(n) != usual && uint16(n) != r.httpPort && uint16(n) != r.tlsPort {
			return stop("its port is neither 80 nor 443")
		}
		to.port = uint16(n)
	}
	if to.name, err = redirectName(u.Hostname()); err != nil {
		return stop(err.Error())
	}
	if to.name.Kind() == cert.IP && asked.Kind() != cert.IP && !r.egress.RedirectToAddress {
		return stop("it leads to an address; redirect to a name")
	}
	return to, nil
}

func redirectName(host string) (cert.Name, error) {
	if a, err := netip.ParseAddr(host); err == nil {
		if a.Zone() != "" {
			return cert.Name{}, fmt.Errorf("its address has a zone")
		}
		return cert.IPName(a), nil
	}
	n, err := cert.ParseDNS(strings.ToLower(strings.TrimSuffix(host, ".")))
	if err != nil || n.Wildcard() {
		return cert.Name{}, fmt.Errorf("its host is not a DNS name")
	}
	return n, nil
}

// An answer is what one request brought.
type answer struct {
	remote   netip.AddrPort
	status   int
	body     string // up to maxBody octets
	location string // where to go on, if anywhere
}

func (r *reach) fetch(ctx context.Context, at hop) (answer, *acme.Problem) {
	conn, remote, p := r.dial(ctx, at.name, at.port)
	if p != nil {
		return answer{}, p
	}
	defer conn.Close() //nolint:errcheck // read to the end of our interest
	defer deadline(ctx, conn)()
	if at.url.Scheme == "https" {
		t, err := handshake(ctx, conn, &tls.Config{
			ServerName:         sni(at.name),
			InsecureSkipVerify: true, //nolint:gosec // see the package's comment: https after a redirect proves no more
			MinVersion:         tls.VersionTLS12,
		})
		if err != nil {
			return answer{}, refuse(acme.TLS, "fetching %s from %s: %s", at, remote, err)
		}
		conn = t
	}
	a, err := exchange(conn, at)
	if err != nil {
		return answer{}, refuse(acme.Connection, "fetching %s from %s: %s", at, remote, err)
	}
	a.remote = remote
	return a, nil
}

// sni returns the server name for a handshake; an address has none (RFC 6066 §3).
func sni(n cert.Name) string {
	if n.Kind() == cert.IP {
		return ""
	}
	return n.Value()
}

// exchange sends one GET and reads one answer. It is not net/http's client: that one keeps connections, follows
// redirects, takes proxies from the environment and costs more than the rest of the check.
func exchange(conn net.Conn, at hop) (answer, error) {
	host := hostOf(at.name)
	if p := at.url.Port(); p != "" {
		host += ":" + p
	}
	_, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: segl-acme-validation (RFC 8555)\r\nAccept: */*\r\nConnection: close\r\n\r\n",
		at.url.RequestURI(), host)
	if err != nil {
		return answer{}, plainReason(err)
	}
	r := bufio.NewReader(io.LimitReader(conn, maxResponse))
	for range maxInterimAnswers {
		res, err := http.ReadResponse(r, nil)
		if err != nil {
			return answer{}, fmt.Errorf("no HTTP answer: %w", plainReason(err))
		}
		if res.StatusCode >= 100 && res.StatusCode < 200 && res.StatusCode != http.StatusSwitchingProtocols {
			continue // RFC 9110 §15.2: interim
		}
		return readAnswer(res)
	}
	return answer{}, fmt.Errorf("more than %d interim answers", maxInterimAnswers)
}

func readAnswer(res *http.Response) (answer, error) {
	defer res.Body.Close() //nolint:errcheck // the connection is closed with it
	switch res.StatusCode {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		if to := res.Header.Get("Location"); to != "" {
			return answer{status: res.StatusCode, location: to}, nil
		}
		return answer{}, fmt.Errorf("status %d without Location", res.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, maxBody))
	if err != nil {
		return answer{}, fmt.Errorf("reading the body: %w", plainReason(err))
	}
	return answer{status: res.StatusCode, body: string(body)}, nil
}

// printable returns at most 100 octets of s, with everything that is not plain ASCII text replaced: what a stranger's
// server said goes into a problem document.
func printable(s string) string {
	const most = 100
	cut := len(s) > most
	if cut {
		s = s[:most]
	}
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '.'
		}
		return r
	}, s)
	if cut {
		s += "..."
	}
	return s
}
