package validate

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/miekg/dns"

	"codeberg.org/dataverket/segl/acme"
	"codeberg.org/dataverket/segl/internal/cert"
)

// A CAA says which records let us issue.
type CAA struct {
	// Identities are the issuer domain names by which owners name us (RFC 8659 §4.2), shown as caaIdentities in
	// directories. None: owners have no way to name us, and no record is asked for.
	Identities []string
	// Private are zones in which no record is asked for, with all below them: what is there is the platform's, not the
	// public tree's. A zone is written as in "internal" or "cluster.local".
	Private []string
}

// check refuses what cannot be meant.
func (c CAA) check() error {
	for _, list := range [][]string{c.Identities, c.Private} {
		for _, s := range list {
			if n, err := cert.ParseDNS(s); err != nil || n.Wildcard() {
				return fmt.Errorf("CAA: %.80q: want a domain name such as ca.example", s)
			}
		}
	}
	return nil
}

// private reports whether name lies in a private zone.
func (c CAA) private(name string) bool {
	return slices.ContainsFunc(c.Private, func(zone string) bool { return name == zone || strings.HasSuffix(name, "."+zone) })
}

// Permit implements acme.Permission: it climbs from the name towards the root and takes the first record set it meets (RFC
// 8659 §3). Addresses have none. What cannot be found out is not permitted.
func (v *Validator) Permit(ctx context.Context, c acme.Check) *acme.Problem {
	name := strings.TrimPrefix(c.Name.Value(), "*.")
	if c.Name.Kind() != cert.DNS || len(v.caa.Identities) == 0 || v.caa.private(name) || isLocalhost(name) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, v.within)
	defer cancel()
	set, at, err := v.reach(c.Scope).resolver.relevant(ctx, name)
	if err != nil {
		return refuse(acme.DNS, "finding out whether %s lets us issue (CAA, RFC 8659 §3): %s", name, err)
	}
	if why := v.caa.judge(set, c); why != "" {
		return refuse(acme.CAA, "the CAA record set at %s does not let us issue for %s: %s; add an issue property for %s (RFC 8659 §4.2)",
			at, c.Name.Value(), why, v.caa.Identities[0])
	}
	return nil
}

// relevant returns the relevant record set of name and where it was met:
//
//	RelevantCAASet(domain):
//	  while domain is not ".":
//	    if CAA(domain) is not Empty:
//	      return CAA(domain)
//	    domain = Parent(domain)
//	  return Empty
func (r *resolver) relevant(ctx context.Context, name string) ([]*dns.CAA, string, error) {
	for at := name; at != ""; _, at, _ = strings.Cut(at, ".") {
		records, _, err := r.lookup(ctx, at, dns.TypeCAA)
		if err != nil && !err.absent {
			return nil, at, err
		}
		var set []*dns.CAA
		for _, rr := range records {
			if c, ok := rr.(*dns.CAA); ok {
				set = append(set, c)
			}
		}
		if len(set) > 0 {
			return set, at, nil
		}
	}
	return nil, "", nil
}

const critical = 1 << 7 // RFC 8659 §4.1.1: bit 0, the most significant

// judge returns why set forbids c, or nothing.
func (i CAA) judge(set []*dns.CAA, c acme.Check) string {
	var issue, wild []string
	for _, p := range set {
		switch strings.ToLower(p.Tag) { // RFC 8659 §4.1: "Matching of tags is case insensitive"
		case "issue":
			issue = append(issue, p.Value)
		case "issuewild":
			wild = append(wild, p.Value)
		case "iodef": // RFC 8659 §4.4 says whom to tell; nothing of it forbids
		default:
			// RFC 8659 §4.1: "A CA MUST NOT issue certificates … if the relevant RRset contains a Property with the Critical
			// Flag set for an unknown or unsupported Property Tag".
			if p.Flag&critical != 0 {
				return fmt.Sprintf("its property %q is critical, and unknown here", printable(p.Tag))
			}
		}
	}
	// RFC 8659 §4.3: "issuewild Properties MUST be ignored when processing a request for a domain name that is not a
	// Wildcard", "If at least one issuewild Property is specified …, all issue Properties MUST be ignored".
	kind, relevant := "issue", issue
	if c.Name.Wildcard() && len(wild) > 0 {
		kind, relevant = "issuewild", wild
	}
	if len(relevant) == 0 { // RFC 8659 §4.2: a set without them does not restrict
		return ""
	}
	named := false
	for _, text := range relevant {
		// RFC 8659 §4.2: "an issue Property Tag where the issue-value does not match the ABNF grammar MUST be treated the
		// same as one specifying an empty issuer-domain-name".
		v, ok := parseIssue(text)
		if !ok || !slices.Contains(i.Identities, v.issuer) {
			continue
		}
		if v.admits(c.Account, string(c.Method)) {
			return ""
		}
		named = true
	}
	if named {
		return fmt.Sprintf("the %s property that names us wants another account or another method than %s by %s (RFC 8657)", kind, c.Account, c.Method)
	}
	return fmt.Sprintf("no %s property names us", kind)
}
