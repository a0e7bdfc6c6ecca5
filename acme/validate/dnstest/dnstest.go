// Package dnstest is a small DNS server for tests: it answers from records it was given, over UDP and TCP on loopback. It
// knows no zones, follows no CNAMEs and is safe for concurrent use.
package dnstest

import (
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/miekg/dns"
)

// A Server answers until the test ends.
type Server struct {
	Addr string // HOST:PORT, for UDP and TCP

	mu      sync.Mutex
	records map[string][]dns.RR
	rcodes  map[string]int
	asked   []string
	answer  func(q *dns.Msg) *dns.Msg
	fold    bool
}

// New starts a server on a free port.
func New(t testing.TB) *Server {
	t.Helper()
	s := &Server{records: map[string][]dns.RR{}, rcodes: map[string]int{}}
	l, p := listen(t)
	s.Addr = p.LocalAddr().String()
	for _, srv := range []*dns.Server{{Listener: l, Handler: dns.HandlerFunc(s.serve)}, {PacketConn: p, Handler: dns.HandlerFunc(s.serve)}} {
		started, ended := make(chan struct{}), make(chan struct{})
		srv.NotifyStartedFunc = func() { close(started) }
		go func() {
			defer close(ended)
			if err := srv.ActivateAndServe(); err != nil {
				t.Errorf("dns server: %v", err)
			}
		}()
		<-started
		t.Cleanup(func() {
			if err := srv.Shutdown(); err != nil {
				t.Errorf("dns server: %v", err)
			}
			<-ended
		})
	}
	return s
}

// listen finds a port that is free for both protocols.
func listen(t testing.TB) (net.Listener, net.PacketConn) {
	t.Helper()
	for range 20 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		if p, err := net.ListenPacket("udp", l.Addr().String()); err == nil {
			return l, p
		}
		l.Close() //nolint:errcheck // the next try takes another
	}
	t.Fatal("no port is free for UDP and TCP")
	return nil, nil
}

// Add adds records in zone-file form, as in "a.test. 0 IN A 192.0.2.1".
func (s *Server) Add(t testing.TB, records ...string) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, text := range records {
		rr, err := dns.NewRR(text)
		if err != nil {
			t.Fatal(err)
		}
		name := strings.ToLower(rr.Header().Name)
		s.records[name] = append(s.records[name], rr)
	}
}

// Clear takes all records of name out.
func (s *Server) Clear(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.records, dns.Fqdn(strings.ToLower(name)))
}

// SetTXT makes value a TXT record of name, beside what is there.
func (s *Server) SetTXT(name, value string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	name = dns.Fqdn(strings.ToLower(name))
	s.records[name] = append(s.records[name], &dns.TXT{Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeTXT, Class: dns.ClassINET}, Txt: []string{value}})
}

// Fail makes every question about name end with rcode.
func (s *Server) Fail(name string, rcode int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rcodes[dns.Fqdn(strings.ToLower(name))] = rcode
}

// Fold makes the server repeat questions in lower case, as some do.
func (s *Server) Fold() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fold = true
}

// Answer replaces how the server answers; nil from f means no answer at all.
func (s *Server) Answer(f func(q *dns.Msg) *dns.Msg) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = f
}

// Asked returns the questions so far, as in "a.test. A".
func (s *Server) Asked() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.asked...)
}

func (s *Server) serve(w dns.ResponseWriter, q *dns.Msg) {
	room := dns.MaxMsgSize
	if _, udp := w.LocalAddr().(*net.UDPAddr); udp {
		room = 1232
	}
	if m := s.reply(q, room); m != nil {
		w.WriteMsg(m) //nolint:errcheck // who asked may have gone
	}
}

func (s *Server) reply(q *dns.Msg, room int) *dns.Msg {
	s.mu.Lock()
	defer s.mu.Unlock()
	name, kind := strings.ToLower(q.Question[0].Name), q.Question[0].Qtype
	s.asked = append(s.asked, name+" "+dns.TypeToString[kind])
	if s.answer != nil {
		return s.answer(q)
	}
	m := new(dns.Msg).SetReply(q)
	if s.fold {
		m.Question[0].Name = name
	}
	if rcode, ok := s.rcodes[name]; ok {
		return m.SetRcode(q, rcode)
	}
	all, ok := s.records[name]
	if !ok {
		return m.SetRcode(q, dns.RcodeNameError)
	}
	for _, rr := range all {
		if t := rr.Header().Rrtype; t == kind || t == dns.TypeCNAME {
			m.Answer = append(m.Answer, rr)
		}
	}
	if m.Len() > room {
		m.Truncate(room)
	}
	return m
}
