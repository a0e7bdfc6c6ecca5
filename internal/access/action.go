package access

// An Action is something that may be asked, in one word. The zero Action is nothing, and nobody may do it.
type Action uint8

// The actions.
const (
	_                 Action = iota
	ReadCertificates         // see certificates and their status, authorities and profiles
	ReadFacts                // see what happened, and what was refused
	ReadScopes               // see scopes, their rights, limits, quotas and settings
	ReadRoles                // see who was granted what, what is pending, and explain decisions about others
	ReadIncidents            // see incidents and what they touch
	ReadLedger               // see the sealed facts whole, and every serial
	Issue                    // have certificates issued for others
	Invite                   // make enrolment tokens
	Revoke                   // end certificates of others, for the reasons a holder may give
	RevokeAnyhow             // end certificates for any reason, an authority's included
	MakeIncidents            // move renewals, and end many certificates at once
	ChangeScopes             // create scopes, and change their name rights, quotas and ACME settings
	Suspend                  // stop a scope, and let it go on
	Delete                   // delete a tenant
	Grant                    // give roles and take them away
	ChangeLimits             // change limits, and forget what was used of them
	BindAccounts             // make and end external account keys (RFC 8555 §7.3.4)
	ChangeAuthorities        // prepare, activate, retire and revoke authorities
	AcceptGaps               // let a ledger go on that lost something
	Approve                  // confirm or turn down what somebody else asked for
	ReadCredentials          // see bindings of credentials, leases and their ends
	IssueCredentials         // have credentials made for others
	RevokeCredentials        // end credentials of others
	ChangeCredentials        // say who gets which credentials, and where they are good
	actions                  // how many there are
)

var words = [actions]string{
	"nothing",
	"certificate.read", "fact.read", "scope.read", "role.read", "incident.read", "ledger.read",
	"certificate.issue", "certificate.invite", "certificate.revoke", "certificate.revoke-anyhow", "incident.make",
	"scope.change", "scope.suspend", "scope.delete", "role.grant", "limit.change", "account.bind", "authority.change", "gap.accept",
	"request.approve",
	"credential.read", "credential.issue", "credential.revoke", "credential.change",
}

// String returns the action's word.
func (a Action) String() string {
	if a >= actions {
		return words[0]
	}
	return words[a]
}

// ParseAction reads an action's word.
func ParseAction(s string) (Action, bool) {
	for a := ReadCertificates; a < actions; a++ {
		if words[a] == s {
			return a, true
		}
	}
	return 0, false
}

// Actions returns every action.
func Actions() []Action {
	var out []Action
	for a := ReadCertificates; a < actions; a++ {
		out = append(out, a)
	}
	return out
}

// A set holds actions.
type set uint64

func of(list ...Action) set {
	var s set
	for _, a := range list {
		s |= 1 << a
	}
	return s
}

// has reports whether a is in s. Nothing is in no set.
func (s set) has(a Action) bool { return a > 0 && a < actions && s&(1<<a) != 0 }
