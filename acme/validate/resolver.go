package validate

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"

	"codeberg.org/dataverket/segl/acme"
)

// Bounds of a look-up.
const (
	queryTimeout = 4 * time.Second
	maxServers   = 3    // asked one after another, as RFC 1035 resolvers do
	maxCNAMEs    = 8    // followed for one name
	udpSize      = 1232 // the largest answer that no path fragments (DNS flag day 2020)
)

// A resolver asks recursive DNS servers. It believes an answer only to the question it asked (RFC 5452 §4) and keeps none.
type resolver struct{ servers []netip.AddrPort }

func newResolver(server string) (*resolver, error) {
	if server != "" {
		a, err := netip.ParseAddrPort(server)
		if err != nil {
			return nil, fmt.Errorf("resolver %.80q: want an address and a port, such as 192.0.2.53:53", server)
		}
		return &resolver{[]netip.AddrPort{a}}, nil
	}
	return systemResolver("/etc/resolv.conf"), nil
}

// systemResolver takes the servers of a resolv.conf; without one, look-ups say that there is none.
func systemResolver(file string) *resolver {
	r := &resolver{}
	conf, err := dns.ClientConfigFromFile(file)
	if err != nil {
		return r
	}
	for _, s := range conf.Servers {
		if a, err := netip.ParseAddr(s); err == nil && len(r.servers) < maxServers {
			r.servers = append(r.servers, netip.AddrPortFrom(a, 53))
		}
	}
	return r
}

// addresses returns the addresses of name, IPv6 first: a host that publishes both is validated where both lead, and its
// IPv4 address is the second try.
func (r *resolver) addresses(ctx context.Context, name string) ([]netip.Addr, *acme.Problem) {
	var found [2][]netip.Addr
	var failed [2]*acme.Problem
	var both sync.WaitGroup
	for i, kind := range []uint16{dns.TypeAAAA, dns.TypeA} {
		both.Go(func() {
			records, _, err := r.lookup(ctx, name, kind)
			found[i], failed[i] = addressesIn(records), err.problem()
		})
	}
	both.Wait()
	if all := append(found[0], found[1]...); len(all) > 0 {
		return all, nil
	}
	for _, p := range []*acme.Problem{failed[1], failed[0]} {
		if p != nil {
			return nil, p
		}
	}
	return nil, refuse(acme.DNS, "%s has no address: add an A or AAAA record", name)
}

func addressesIn(records []dns.RR) []netip.Addr {
	var out []netip.Addr
	for _, rr := range records {
		var raw []byte
		switch rr := rr.(type) {
		case *dns.A:
			raw = rr.A.To4()
		case *dns.AAAA:
			raw = rr.AAAA.To16()
		}
		if a, ok := netip.AddrFromSlice(raw); ok {
			out = append(out, a.Unmap())
		}
	}
	return out
}

// texts returns the values of the TXT records of name, each record's strings put together (RFC 7208 §3.3).
func (r *resolver) texts(ctx context.Context, name string) ([]string, netip.AddrPort, *acme.Problem) {
	records, server, err := r.lookup(ctx, name, dns.TypeTXT)
	if err != nil {
		return nil, server, err.problem()
	}
	var out []string
	for _, rr := range records {
		if t, ok := rr.(*dns.TXT); ok {
			out = append(out, strings.Join(t.Txt, ""))
		}
	}
	return out, server, nil
}

// lookup returns the records of kind at name, following a bounded number of CNAMEs, whether the server follows them or not.
func (r *resolver) lookup(ctx context.Context, name string, kind uint16) ([]dns.RR, netip.AddrPort, *lookupError) {
	at, followed := dns.Fqdn(name), 0
	for {
		answer, server, err := r.ask(ctx, at, kind)
		if err != nil {
			return nil, server, err
		}
		records, end, n := chase(answer, at, kind, maxCNAMEs-followed)
		if len(records) > 0 || n == 0 {
			return records, server, nil
		}
		if followed += n; followed >= maxCNAMEs {
			return nil, server, &lookupError{why: fmt.Sprintf("%s: more than %d CNAMEs, perhaps a loop", name, maxCNAMEs)}
		}
		at = end
	}
}

// A lookupError says why there is no answer.
type lookupError struct {
	why    string
	absent bool // the name is known not to exist, which is an answer too
}

func (e *lookupError) Error() string { return e.why }

func (e *lookupError) problem() *acme.Problem {
	if e == nil {
		return nil
	}
	return refuse(acme.DNS, "%s", e.why)
}

// chase follows the CNAMEs in one answer from owner on. It returns the records of kind at their end, that end, and how
// many CNAMEs it took.
func chase(answer *dns.Msg, owner string, kind uint16, most int) (records []dns.RR, end string, followed int) {
	for followed < most {
		var next string
		for _, rr := range answer.Answer {
			if !strings.EqualFold(rr.Header().Name, owner) || rr.Header().Class != dns.ClassINET {
				continue
			}
			if rr.Header().Rrtype == kind {
				records = append(records, rr)
			}
			if c, ok := rr.(*dns.CNAME); ok {
				next = c.Target
			}
		}
		if len(records) > 0 || next == "" {
			return records, owner, followed
		}
		owner = next
		followed++
	}
	return nil, owner, followed
}

// ask puts one question to the servers in turn until one has an answer. A name that is not there is an answer too.
func (r *resolver) ask(ctx context.Context, name string, kind uint16) (*dns.Msg, netip.AddrPort, *lookupError) {
	q := new(dns.Msg).SetQuestion(mixCase(name), kind)
	q.SetEdns0(udpSize, false)
	why := errors.New("no DNS server is configured")
	for _, s := range r.servers {
		m, err := exchangeDNS(ctx, q, s)
		switch {
		case err != nil:
			why = err
		case m.Rcode == dns.RcodeNameError:
			return nil, s, &lookupError{fmt.Sprintf("%s %s: the name does not exist (NXDOMAIN)", printable(name), dns.TypeToString[kind]), true}
		case m.Rcode != dns.RcodeSuccess:
			why = fmt.Errorf("the server answers %s", dns.RcodeToString[m.Rcode])
		default:
			return m, s, nil
		}
	}
	return nil, netip.AddrPort{}, &lookupError{why: fmt.Sprintf("looking up %s %s: %s", printable(name), dns.TypeToString[kind], why)}
}

// mixCase gives the letters of name a random case each, which whoever answers must repeat: a guess of the query's 16 bits
// and port then needs those of the name too (draft-vixie-dnsext-dns0x20-00 §4; names compare without case, RFC 4343).
func mixCase(name string) string {
	raw := make([]byte, len(name))
	if _, err := rand.Read(raw); err != nil {
		panic("validate: internal error: the system has no randomness: " + err.Error()) // crypto/rand never returns one since Go 1.24
	}
	out := []byte(name)
	for i, c := range out {
		if 'a' <= c && c <= 'z' && raw[i]&1 == 1 {
			out[i] = c - 'a' + 'A'
		}
	}
	return string(out)
}

// exchangeDNS asks by UDP, and by TCP when the answer did not fit (RFC 7766 §5) or did not repeat the question's letters: a
// server may not keep their case, and over TCP nobody answers in its place unseen.
func exchangeDNS(ctx context.Context, q *dns.Msg, server netip.AddrPort) (*dns.Msg, error) {
	for _, network := range []string{"udp", "tcp"} {
		client := dns.Client{Net: network, Timeout: queryTimeout, UDPSize: udpSize}
		m, _, err := client.ExchangeContext(ctx, q, server.String())
		if err != nil {
			return nil, plainReason(err)
		}
		if len(m.Question) != 1 || !strings.EqualFold(m.Question[0].Name, q.Question[0].Name) || m.Id != q.Id ||
			m.Question[0].Qtype != q.Question[0].Qtype || m.Question[0].Qclass != q.Question[0].Qclass || !m.Response {
			return nil, errors.New("the server answered another question")
		}
		if !m.Truncated && (network == "tcp" || m.Question[0].Name == q.Question[0].Name) {
			return m, nil
		}
	}
	return nil, errors.New("the answer is cut short by TCP too")
}
