package ca

import (
	"fmt"
	"regexp"
	"strings"

	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/policy"
)

// names settles the names of the certificate: those the CSR asks, and the identity asked beside it. A common name is
// taken only if it repeats one of them (RFC 6125 §1.5: it is no place for a host name of its own).
func (p *Profile) names(req Request) ([]cert.Name, error) {
	refuse := func(what, remedy string) ([]cert.Name, error) {
		return nil, &policy.Refusal{What: what, Rule: "profile " + p.Name, Remedy: remedy}
	}
	names := req.CSR.Names
	var hosts, ids int
	for _, n := range names {
		if n.Kind() == cert.URI {
			ids++
		} else {
			hosts++
		}
	}
	if ids == 0 && p.Identity == Required && !req.Identity.IsZero() {
		u, err := cert.ParseURI(req.Identity.String())
		if err != nil {
			return nil, err
		}
		names, ids = append([]cert.Name{u}, names...), 1
	}
	switch {
	case len(names) > cert.MaxNames:
		return refuse(fmt.Sprintf("%d names", len(names)), fmt.Sprintf("ask for at most %d", cert.MaxNames))
	case hosts == 0 && p.Hosts == Required:
		return refuse("a request without a dns or ip name", "name at least one host in the CSR's subjectAltName")
	case hosts > 0 && p.Hosts == Refused:
		return refuse("a dns or ip name", "leave host names out, or choose profile workload or server")
	case ids > 0 && p.Identity == Refused:
		return refuse("a uri name", "leave it out, or choose profile workload or client")
	case ids != 1 && p.Identity == Required:
		return refuse(fmt.Sprintf("%d SPIFFE IDs", ids), "name exactly one, spiffe://<trust domain>/tenant/…/<workload> (X.509-SVID §2)")
	}
	if cn := req.CSR.CommonName; cn != "" && !p.Role && !named(names, cn) {
		return refuse(fmt.Sprintf("common name %.64q", cn), "leave it out or repeat one of the names in subjectAltName")
	}
	return names, nil
}

func named(names []cert.Name, cn string) bool {
	for _, n := range names {
		if id, err := identity.ParseID(n.Value()); n.Value() == cn || err == nil && id.Workload() == cn {
			return true
		}
	}
	return false
}

// roleName is what a PostgreSQL role may be called here, so that it needs no quoting anywhere.
var roleName = regexp.MustCompile(`^[a-z_][a-z0-9_]{0,40}$`)

// role returns the common name of a certificate that carries a database role: role@environment.project.tenant, from which
// one pg_ident.conf line per scope maps back to the role. The CSR gives the role alone or the whole.
func (p *Profile) role(req Request) (string, error) {
	if !p.Role {
		return "", nil
	}
	refuse := func(what, remedy string) (string, error) {
		return "", &policy.Refusal{What: what, Rule: "profile " + p.Name, Remedy: remedy}
	}
	suffix := "@" + RoleRealm(req.Scope)
	role := strings.TrimSuffix(req.CSR.CommonName, suffix)
	switch {
	case !roleName.MatchString(role):
		return refuse(fmt.Sprintf("common name %.64q", req.CSR.CommonName), "give the role: a-z, 0-9 and _, up to 41, as in app or app"+suffix)
	case role == "postgres" || strings.HasPrefix(role, "pg_"):
		return refuse("role "+role, "the server's own roles are never granted by certificate; use a role of your own")
	case len(role+suffix) > 64:
		return refuse(fmt.Sprintf("a common name of %d octets", len(role+suffix)), "at most 64 (RFC 5280 appendix A.1): use a shorter role")
	}
	return role + suffix, nil
}

// RoleRealm is the part of a role's common name behind the @: the scope from the inside out.
func RoleRealm(s identity.Scope) string {
	parts := strings.Split(s.String(), "/")
	for i, j := 0, len(parts)-1; i < j; i, j = i+1, j-1 {
		parts[i], parts[j] = parts[j], parts[i]
	}
	return strings.Join(parts, ".")
}
