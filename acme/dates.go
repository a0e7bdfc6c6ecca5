package acme

import (
	"time"

	"codeberg.org/dataverket/segl/ca"
)

// A dated order must be finalized while the certificate may still begin when it was asked to: ca takes no dates longer past
// than ca.Backdating.
const (
	clockSpread = time.Minute                   // between a client's clock and ours
	datedLife   = ca.Backdating - 5*time.Minute // of an order, from the first second asked for
)

// date takes the dates that were asked for, if the profile can give them. RFC 8555 §7.4: "The server MUST return an error if
// it cannot fulfill the request as specified, and it MUST NOT issue a certificate with contents other than those requested."
func (s *Server) date(o *Order, ask NewOrder) error {
	if ask.NotBefore.IsZero() && ask.NotAfter.IsZero() {
		return nil
	}
	p, err := s.Issuer.Profile(o.Scope, o.Profile)
	if err != nil {
		return problem(InvalidProfile, "%s", err)
	}
	now := s.Now().UTC()
	from, to := ask.NotBefore.UTC().Truncate(time.Second), ask.NotAfter.UTC().Truncate(time.Second)
	if ask.NotBefore.IsZero() {
		from = now
	}
	if ask.NotAfter.IsZero() {
		to = from.Add(p.Default)
	}
	latest := now.Add(p.Max - 2*clockSpread)
	switch {
	case to.Sub(from) < ca.MinLife:
		return problem(Malformed, "notAfter must be at least %s later than notBefore and now (RFC 8555 §7.4)", ca.MinLife)
	case from.Before(now.Add(-clockSpread)):
		return problem(Malformed, "notBefore is past: leave it out, or begin at %s or later", now.Format(time.RFC3339))
	case to.Sub(now) < ca.MinLife:
		return problem(Malformed, "notAfter is past or nearly: ask for a later one, or leave it out")
	case to.After(latest):
		return problem(Malformed, "profile %s goes no further than %s: ask for an earlier notAfter or notBefore", p.Name, latest.Format(time.RFC3339))
	}
	o.NotAfter = to
	ends := to.Add(-ca.MinLife)
	if !ask.NotBefore.IsZero() {
		o.NotBefore = from
		if due := from.Add(datedLife); due.Before(ends) {
			ends = due
		}
	}
	if ends.Before(o.Expires) {
		o.Expires = ends
	}
	return nil
}
