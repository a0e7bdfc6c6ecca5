package access

import (
	"fmt"
	"strings"
)

// A Role is a set of actions with a name.
type Role string

// The roles. What each allows is in docs/access.md, which a test holds to this file.
const (
	Reader  Role = "reader"
	Issuer  Role = "issuer"
	Revoker Role = "revoker"
	Admin   Role = "admin"
	Auditor Role = "auditor"
)

// Roles returns every role.
func Roles() []Role { return []Role{Reader, Issuer, Revoker, Auditor, Admin} }

// ParseRole reads a role's name.
func ParseRole(s string) (Role, error) {
	for _, r := range Roles() {
		if string(r) == s {
			return r, nil
		}
	}
	return "", fmt.Errorf("role %.40q: want one of %s", s, join(Roles(), ", "))
}

const (
	reads   set = 1<<ReadCertificates | 1<<ReadFacts | 1<<ReadScopes | 1<<ReadIncidents | 1<<ReadCredentials
	audits  set = reads | 1<<ReadRoles | 1<<ReadLedger
	issues  set = 1<<ReadCertificates | 1<<ReadScopes | 1<<Issue | 1<<Invite | 1<<IssueCredentials
	revokes set = 1<<ReadCertificates | 1<<ReadScopes | 1<<ReadIncidents | 1<<Revoke | 1<<MakeIncidents | 1<<RevokeCredentials
	proved  set = 1<<Issue | 1<<Revoke
	// lives is what a workload's certificate is good for in its own scope, by itself.
	lives set = 1<<ReadCertificates | 1<<ReadFacts | 1<<ReadScopes | 1<<ReadCredentials | 1<<Issue | 1<<Invite | 1<<Revoke
)

// allows is what r lets do. A role that is not there allows nothing.
func (r Role) allows() set {
	switch r {
	case Reader:
		return reads
	case Issuer:
		return issues
	case Revoker:
		return revokes
	case Auditor:
		return audits
	case Admin:
		return 1<<actions - 2
	}
	return 0
}

// Allows reports whether r includes a.
func (r Role) Allows(a Action) bool { return r.allows().has(a) }

// granting names the roles that include a.
func granting(a Action) string {
	var out []Role
	for _, r := range Roles() {
		if r.Allows(a) {
			out = append(out, r)
		}
	}
	return join(out, " or ")
}

func join(list []Role, between string) string {
	words := make([]string, len(list))
	for i, r := range list {
		words[i] = string(r)
	}
	return strings.Join(words, between)
}
