// Package audit has the word for what happened: a Fact, and the statement that writes facts down.
//
// A fact stands in the transaction of what it records, so the adapter that writes the one writes the other: there is no
// audit service to call, and none that can be down. Facts hold who, for whom, where, what, whether it was allowed, and
// why; never a key, a token or a request body. Rows are sealed later, in batches. The package does no I/O.
package audit

import (
	"strings"
	"time"

	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
)

// What facts record. The words are stored.
const (
	Issue          = "certificate.issue"
	Renew          = "certificate.renew"
	Revoke         = "certificate.revoke"
	Abandon        = "certificate.abandon"
	Difference     = "check.difference" // what is published is not what the ledger holds
	EnrolmentMade  = "enrolment.make"
	EnrolmentUsed  = "enrolment.use"
	MethodMade     = "enrolment.method.make" // whose proofs let whom in
	MethodEnded    = "enrolment.method.end"
	ScopeCreated   = "scope.create"
	ScopeChanged   = "scope.change"
	ScopeSuspended = "scope.suspend"
	ScopeResumed   = "scope.resume"
	ScopeDeleting  = "scope.delete"
	ScopeDeleted   = "scope.gone" // all of it was ended, and its name is free
	AuthorityMade  = "authority.create"

	Admit              = "caller.admit" // only ever refused
	AuthorityActivated = "authority.activate"
	ListImported       = "authority.list"
	RootVouched        = "authority.vouch"
	AuthorityRetired   = "authority.retire"
	IncidentMade       = "incident.create"
	IncidentCancelled  = "incident.cancel"
	IncidentRevokes    = "incident.revoke"

	OperatorAdded  = "operator.add"
	AccountCreated = "account.create"
	AccountChanged = "account.change"
	// AuthorizationEnded: an account gave an authorization up.
	AuthorizationEnded = "authorization.end"
	Order              = "order.create"           // only ever refused: an order is its own row
	Validate           = "authorization.validate" // likewise
	OrderCanceled      = "order.cancel"
	Approve            = "authorization.approve" // a name that an external account key spares its accounts the proof of
	BindingMade        = "binding.create"
	BindingUsed        = "binding.use"
	BindingRevoked     = "binding.revoke"
	ACMEChanged        = "acme.change" // what a scope's directory asks and offers
	ProfileChanged     = "profile.change"
	LimitChanged       = "limit.change" // how much of something a scope may have
	Limited            = "limit.exceed" // only ever refused
	TokenIssued        = "token.issue"
	TokenRevoked       = "token.revoke"
	TokenKeyMade       = "token-key.create"
	TokenKeyRevoked    = "token-key.revoke"
	RoleGranted        = "role.grant"
	RoleEnded          = "role.end"
	ApprovalAsked      = "approval.ask" // something waits for a second operator
	ApprovalGiven      = "approval.give"
	ApprovalRejected   = "approval.reject"
	ApprovalUsed       = "approval.use" // what was confirmed is done

	TargetMade        = "target.create"
	TargetEnded       = "target.end"
	CredentialBound   = "credential.bind"
	CredentialUnbound = "credential.unbind"
	LeaseMade         = "lease.create"
	LeaseExtended     = "lease.renew"
	LeaseEnded        = "lease.end"
	LeaseStray        = "lease.orphan" // a login that no lease names
)

// A Fact is something that happened, or was refused.
type Fact struct {
	At      time.Time
	Who     identity.Caller
	Scope   identity.Scope // where; zero means nowhere in particular
	What    string         // one of the words above
	Refused bool
	Serial  cert.Serial // the certificate it is about, or zero
	Subject string      // what else it is about
	Why     string      // the rule that refused, or the reason given
}

// Insert writes facts down; its arguments are Columns. A scope that does not exist leaves the column NULL: a refusal may
// be about one.
const Insert = `
	INSERT INTO fact (at, scope, allowed, what, actor, act, serial, subject, why)
	SELECT f.at, s.id, f.allowed, f.what, f.actor, nullif(f.act, ''), f.serial, nullif(f.subject, ''), nullif(f.why, '')
	FROM   unnest($1::timestamptz[], $2::text[], $3::boolean[], $4::text[], $5::text[], $6::text[], $7::bytea[], $8::text[], $9::text[])
	       AS f (at, scope, allowed, what, actor, act, serial, subject, why)
	LEFT   JOIN scope s ON s.path = f.scope`

// InsertRefusals is Insert for what was refused: it keeps the name of the request as well, by which whoever was refused finds
// out why. Its arguments are RefusalColumns.
const InsertRefusals = `
	INSERT INTO fact (at, scope, allowed, what, actor, act, serial, subject, why, request)
	SELECT f.at, s.id, f.allowed, f.what, f.actor, nullif(f.act, ''), f.serial, nullif(f.subject, ''), nullif(f.why, ''), nullif(f.request, '')
	FROM   unnest($1::timestamptz[], $2::text[], $3::boolean[], $4::text[], $5::text[], $6::text[], $7::bytea[], $8::text[], $9::text[], $10::text[])
	       AS f (at, scope, allowed, what, actor, act, serial, subject, why, request)
	LEFT   JOIN scope s ON s.path = f.scope`

// RefusalColumns turns facts into the arguments of InsertRefusals.
func RefusalColumns(facts ...Fact) []any {
	request := make([]string, len(facts))
	for i, f := range facts {
		if f.Refused {
			request[i] = Clip(f.Who.Request)
		}
	}
	return append(Columns(facts...), request)
}

// Columns turns facts into the arguments of Insert.
func Columns(facts ...Fact) []any {
	n := len(facts)
	at, allowed, serial := make([]time.Time, n), make([]bool, n), make([][]byte, n)
	scope, what, actor, act := make([]string, n), make([]string, n), make([]string, n), make([]string, n)
	subject, why := make([]string, n), make([]string, n)
	for i, f := range facts {
		at[i], scope[i], allowed[i], what[i] = f.At, f.Scope.String(), !f.Refused, f.What
		actor[i], act[i], subject[i], why[i] = Clip(f.Who.Actor), Clip(f.Who.Act), Clip(f.Subject), Clip(f.Why)
		if !f.Serial.IsZero() {
			serial[i] = f.Serial.Bytes()
		}
	}
	return []any{at, scope, allowed, what, actor, act, serial, subject, why}
}

// Clip bounds what a stranger can write into the ledger, and makes it text as Postgres takes it: UTF-8 without NUL. A
// refusal must not fail for what was refused.
func Clip(s string) string {
	const most = 256
	s = s[:min(most, len(s))]
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}
