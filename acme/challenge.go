package acme

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"net/netip"
	"slices"

	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
)

// A Method is a way to prove control of an identifier: a challenge type.
type Method string

// The methods. Those of drafts are offered only where a configuration names the draft (Config.Drafts).
const (
	HTTP01       Method = "http-01"        // RFC 8555 §8.3
	DNS01        Method = "dns-01"         // RFC 8555 §8.4
	TLSALPN01    Method = "tls-alpn-01"    // RFC 8737
	DNSAccount01 Method = "dns-account-01" // draft-ietf-acme-dns-account-label
	DNSPersist01 Method = "dns-persist-01" // draft-ietf-acme-dns-persist
	// DeviceAttest01 proves a device (draft-ietf-acme-device-attest).
	DeviceAttest01 Method = "device-attest-01"
)

// Drafts returns the methods that no RFC has yet, each with the version of its draft that is spoken here. A client of
// another version may mean something else by the same word, so that a configuration names the version it wants.
func Drafts() map[Method]string {
	return map[Method]string{
		DNSAccount01:   "draft-ietf-acme-dns-account-label-02",
		DNSPersist01:   "draft-ietf-acme-dns-persist-01",
		DeviceAttest01: "draft-ietf-acme-device-attest-09",
	}
}

// MethodsFor returns the methods that may prove control of name, in the order in which they are offered.
func MethodsFor(name cert.Name) []Method {
	switch {
	case name.Wildcard():
		// RFC 8555 §7.1.3: whoever answers for one host has not shown control of all; only the zone shows that.
		return []Method{DNS01, DNSAccount01, DNSPersist01}
	case name.Kind() == cert.DNS:
		return []Method{HTTP01, DNS01, TLSALPN01, DNSAccount01, DNSPersist01}
	case name.Kind() == cert.IP:
		// RFC 8738 §7: "The "dns-01" challenge … MUST NOT be used to validate IP addresses."
		return []Method{HTTP01, TLSALPN01}
	case name.Kind() == cert.Device:
		return []Method{DeviceAttest01}
	}
	return nil
}

// Offers reports whether m may be answered here: every RFC's method may, a draft's where it is switched on.
func (s *Server) Offers(m Method) bool {
	_, draft := Drafts()[m]
	if m == DeviceAttest01 && s.Attester == nil {
		return false
	}
	return !draft || slices.Contains(s.Drafts, m)
}

// Challenges returns what a client is shown of a (RFC 8555 §7.1.4): all that may be answered here, or the one that decided.
func (s *Server) Challenges(a Authorization) []Challenge {
	all := a.Challenges()
	if a.Validation != nil {
		return all
	}
	return slices.DeleteFunc(all, func(c Challenge) bool { return !s.Offers(c.Method) })
}

// A Check is what a Validator is asked: does whoever controls Name show KeyAuthorization by Method?
type Check struct {
	Scope            identity.Scope // whose rules of reaching out apply
	Account          string         // the account's URL, as RFC 8657 and dns-account-01 know accounts
	Name             cert.Name      // may be a wildcard, with the methods of the zone only
	Method           Method
	Token            string
	KeyAuthorization string // RFC 8555 §8.1
	Payload          []byte // what came with the answer, for methods that prove by it
}

// Digest returns the SHA-256 of the key authorization, as dns-01 and tls-alpn-01 show it.
func (c Check) Digest() [sha256.Size]byte { return sha256.Sum256([]byte(c.KeyAuthorization)) }

// Record returns the value that a dns-01 TXT record must have (RFC 8555 §8.4).
func (c Check) Record() string {
	d := c.Digest()
	return base64.RawURLEncoding.EncodeToString(d[:])
}

// Evidence is what a Validator saw when a Check succeeded.
type Evidence struct {
	// Remote is the address that answered: the host's, or for dns-01 the resolver's.
	Remote netip.AddrPort
	// Via are the URLs of the redirects that were followed on the way.
	Via []string
	// Statement is the format of a device's statement that counts, and Key what it attests; empty for other methods.
	Statement string
	Key       cert.KeyID
	// Agreed are the other places that saw the same.
	Agreed []string
}

// String returns e as it is recorded, bounded.
func (e Evidence) String() string {
	const most = 512
	if e.Statement != "" {
		return e.statement()
	}
	s := e.Remote.String()
	for _, u := range e.Via {
		s += " via " + u
	}
	for _, place := range e.Agreed {
		s += " and " + place
	}
	return s[:min(len(s), most)]
}

// A Validator performs checks. It gives up when ctx ends. The Problem's detail goes to the client as it is, so that it
// must not tell what the client could not see from outside. Implementations are safe for concurrent use.
type Validator interface {
	Validate(ctx context.Context, c Check) (Evidence, *Problem)
}
