package acme

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"time"

	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/uid"
)

// reuseMargin is how long an authorization must still be good for another order to take it: the order ends with it.
const reuseMargin = time.Hour

// maxAncestors bounds how far above a name an authorization is looked for that covers subdomains.
const maxAncestors = 4

// A Wanted is an authorization that somebody looks for: valid, of Account, for Name.
type Wanted struct {
	Account    uid.UID
	Name       cert.Name
	Subdomains bool      // one that covers the names below Name too
	Until      time.Time // it must not have expired by then
	Site       byte      // that made it
}

// Proof is the number by which an authorization is found again: eight octets of a hash. Two that share one differ in account
// or name, which are compared as well.
func (w Wanted) Proof() int64 {
	h := sha256.New()
	h.Write(w.Account.Bytes())
	h.Write([]byte(w.Name.String()))
	if w.Subdomains {
		h.Write([]byte{0})
	}
	return int64(binary.BigEndian.Uint64(h.Sum(nil))) //nolint:gosec // the same bits
}

// Proof is the number by which a is found again.
func (a Authorization) Proof() int64 {
	return Wanted{Account: a.Account, Name: a.Name, Subdomains: a.Subdomains}.Proof()
}

// Methods returns the methods that may prove a.
func (a Authorization) Methods() []Method {
	if !a.Subdomains {
		return MethodsFor(a.Name)
	}
	if wild, err := cert.ParseDNS("*." + a.Name.Value()); err == nil {
		// RFC 9444 §4.1 leaves it to policy. Ours is that of wildcards: whoever answers for one host has not shown control of
		// all below it; only the zone shows that. A standing record has no word for subdomains: draft-ietf-acme-dns-persist-01
		// wants policy=wildcard for more than the name it stands at.
		return slices.DeleteFunc(MethodsFor(wild), func(m Method) bool { return m == DNSPersist01 })
	}
	return nil
}

// covers reports whether a valid a shows control of n. A wildcard is shown by its own authorization alone (RFC 8555 §7.1.3).
func (a Authorization) covers(n cert.Name) bool {
	return a.Name == n || a.Subdomains && below(n, a.Name)
}

// below reports whether n is a subdomain of ancestor, and no wildcard.
func below(n, ancestor cert.Name) bool {
	return n.Kind() == cert.DNS && ancestor.Kind() == cert.DNS && !n.Wildcard() && strings.HasSuffix(n.Value(), "."+ancestor.Value())
}

// ancestors returns the domains above n that an authorization might cover n from, the nearest first. A single label is none.
func ancestors(n cert.Name) []cert.Name {
	var out []cert.Name
	if n.Kind() != cert.DNS || n.Wildcard() {
		return nil
	}
	for rest := n.Value(); len(out) < maxAncestors; {
		_, above, ok := strings.Cut(rest, ".")
		a, err := cert.ParseDNS(above)
		if !ok || err != nil || !strings.Contains(above, ".") {
			break
		}
		out, rest = append(out, a), above
	}
	return out
}

// proofs looks for valid authorizations of account for each name, by itself or by a domain above it, and returns those it
// found by name. They are the account's own: whoever else proved the name is of no account here. What a binding spares is
// decided anew for each order, and proves nothing.
func (s *Server) proofs(ctx context.Context, account uid.UID, names []cert.Name, until time.Time) (map[cert.Name]Authorization, error) {
	var wanted []Wanted
	seen := make(map[Wanted]bool)
	want := func(n cert.Name, subdomains bool) {
		w := Wanted{Account: account, Name: n, Subdomains: subdomains, Until: until, Site: s.Site}
		if !seen[w] {
			seen[w], wanted = true, append(wanted, w)
		}
	}
	for _, n := range names {
		want(n, false)
		want(n, true)
		for _, above := range ancestors(n) {
			want(above, true)
		}
	}
	had, err := s.Store.Proofs(ctx, wanted)
	if err != nil {
		return nil, fmt.Errorf("looking for authorizations of account %s: %w", account, err)
	}
	found := make(map[cert.Name]Authorization, len(names))
	for _, n := range names {
		for _, a := range had {
			if a.Account == account && a.covers(n) && n.Kind() != cert.Device && a.Status(s.Now()) == Valid && a.Validation.Method != PreApproved && !until.After(a.Expires) {
				found[n] = a
				break
			}
		}
	}
	return found, nil
}

// seek looks for authorizations of h that an order of names made at now may rest on, and returns what waits for them.
func (s *Server) seek(ctx context.Context, h Holder, names []cert.Name, now time.Time) func() (map[cert.Name]Authorization, error) {
	var found map[cert.Name]Authorization
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		found, err = s.proofs(ctx, h.ID, names, now.Add(reuseMargin))
	}()
	return func() (map[cert.Name]Authorization, error) {
		<-done
		return found, err
	}
}

// rest lets o rest on authorizations that its account has already, which were found, and on those of the domains above that it
// is to be proved by (RFC 9444 §4.3), rather than on fresh ones, which are made at now as o was. It ends no later than they do.
func (s *Server) rest(h Holder, o *Order, above map[cert.Name]cert.Name, found map[cert.Name]Authorization, now time.Time) {
	shared := make(map[cert.Name]Authorization)
	for i, n := range o.Names {
		if a, ok := found[n]; ok {
			o.Authorizations[i] = a
			if a.Expires.Before(o.Expires) {
				o.Expires = a.Expires
			}
			continue
		}
		if domain, ok := above[n]; ok {
			a, made := shared[domain]
			if !made {
				a = s.makeAuthorization(h, domain, now)
				a.Subdomains = true
				shared[domain] = a
			}
			o.Authorizations[i] = a
		}
	}
}

// above reads the domains that ask names to be proved in place of its identifiers, which have been read before.
func (ask NewOrder) above() (map[cert.Name]cert.Name, *Problem) {
	out := make(map[cert.Name]cert.Name)
	for i, text := range ask.Ancestors {
		if text == "" {
			continue
		}
		n, p := ask.Identifiers[i].parse()
		if p != nil {
			return nil, p
		}
		domain, err := cert.ParseDNS(text)
		if err != nil || domain.Wildcard() || !below(n, domain) {
			// RFC 9444 §4.3: the ancestor domain "MUST" be one, of an identifier that is no wildcard.
			return nil, problem(Malformed, `"ancestorDomain" %.80q is no domain above %s: leave it out (RFC 9444 §4.3)`, text, n)
		}
		out[n] = domain
	}
	return out, nil
}
