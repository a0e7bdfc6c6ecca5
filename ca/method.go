package ca

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"codeberg.org/dataverket/segl/internal/access"
	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/policy"
)

// A ProofKind is how somebody proves who they are at first, beside a one-time token.
type ProofKind string

// The kinds. All of them are signed statements (JWT, RFC 7519); they differ in whose key is believed.
const (
	OIDC       ProofKind = "oidc"       // an OpenID provider's, found at its issuer
	Kubernetes ProofKind = "kubernetes" // a cluster's about a service account: found at its issuer, registered, or asked by TokenReview
	JWK        ProofKind = "jwk"        // a registered one
	X5C        ProofKind = "x5c"        // that of a certificate below a registered root (RFC 7515 §4.1.6)
)

// ProofKinds are all of them.
var ProofKinds = []string{string(OIDC), string(Kubernetes), string(JWK), string(X5C)}

// A Method says whose proof lets whom in: into one scope, by one profile, under names it fixes. Operators make methods; an
// ended one is never used again, and another may have its name.
type Method struct {
	ID      int64
	Scope   identity.Scope
	Name    string
	Kind    ProofKind
	Profile string
	// Workload is who is let in. Empty: whom the proof is about, a service account by its name.
	Workload string
	Names    []cert.Name // host names that may be had besides
	// Subject is whom the proof must be about (sub); a * at its end stands for any end.
	Subject  string
	Issuer   string            // who the proof must be from (iss)
	Audience string            // whom it must be for (aud); of no other method here, unless operators say so
	Claims   map[string]string // what else it must say
	Keys     []byte            // a JWK set: of jwk, and of a cluster that cannot be asked
	Roots    []byte            // PEM: of x5c
	Cluster  string            // which configured API server is asked by TokenReview; empty: none
	MadeAt   time.Time
	EndedAt  time.Time // zero while it stands
}

// Ref is what a proof is sent with: SCOPE:NAME.
func (m Method) Ref() string { return m.Scope.String() + ":" + m.Name }

// Methods keeps them.
type Methods interface {
	// AddMethod records m and f. ErrConflict: one of that name stands in the scope. ErrNotFound: no such scope. ErrCallerRevoked.
	AddMethod(ctx context.Context, m Method, f audit.Fact) (Method, error)
	// EndMethod ends the one of that name, or returns ErrNotFound or ErrCallerRevoked.
	EndMethod(ctx context.Context, scope identity.Scope, name string, f audit.Fact) (Method, error)
	// MethodNamed returns the one of that name that stands, or ErrNotFound.
	MethodNamed(ctx context.Context, scope identity.Scope, name string) (Method, error)
	// MethodsIn returns those of a scope and below, ended ones included, newest first and at most limit, older than before.
	MethodsIn(ctx context.Context, scope identity.Scope, before int64, limit int) ([]Method, error)
}

// ErrProof is wrapped by a Judge's refusal of a proof. The text says what is wrong, and never the proof.
var ErrProof = errors.New("the proof is refused")

// Proved is what a proof says, its signature, issuer, audience and times having been found good.
type Proved struct {
	Subject string
	Once    [32]byte // the same for the same proof, however it is spelt
	Issued  time.Time
	Expires time.Time
	Claims  map[string][]string
}

// A Judge tells proofs from forgeries. It decides nothing else.
type Judge interface {
	// Check returns why a method of this kind cannot be judged by, as keys that cannot be read.
	Check(m Method) error
	// Prove returns what a proof says. ErrProof: it is not good for m. Any other error: that could not be found out.
	Prove(ctx context.Context, m Method, proof string) (Proved, error)
}

// MaxProofAge is how long after it was made a proof is taken, however long it is good elsewhere.
const MaxProofAge = 24 * time.Hour

var methodName = regexp.MustCompile(`^[a-z][a-z0-9-]{0,39}$`)

// AddMethod makes an enrolment method.
func (a *CA) AddMethod(ctx context.Context, who identity.Caller, m Method) (Method, error) {
	m.MadeAt = a.Now()
	if m.Profile == "" {
		m.Profile = "workload"
	}
	if m.Audience == "" {
		m.Audience = "segl:" + a.TrustDomain + ":" + m.Ref()
	}
	fact := audit.Fact{At: m.MadeAt, Who: who, Scope: m.Scope, What: audit.MethodMade, Subject: fmt.Sprintf("%s %.60s, subject %.100s", m.Name, m.Kind, m.Subject)}
	if err := a.methodical(ctx, who, m); err != nil {
		if r, ok := errors.AsType[*policy.Refusal](err); ok {
			return Method{}, a.refuse(ctx, fact, r.Rule, err)
		}
		return Method{}, err
	}
	made, err := a.Methods.AddMethod(ctx, m, fact)
	if err != nil {
		return Method{}, fmt.Errorf("recording enrolment method %s: %w", m.Ref(), err)
	}
	return made, nil
}

// EndMethod ends a method: who it let in stays in.
func (a *CA) EndMethod(ctx context.Context, who identity.Caller, scope identity.Scope, name string) (Method, error) {
	fact := audit.Fact{At: a.Now(), Who: who, Scope: scope, What: audit.MethodEnded, Subject: name}
	if err := access.Check(who, access.ChangeScopes, scope); err != nil {
		return Method{}, a.refuse(ctx, fact, "roles", err)
	}
	if a.Methods == nil {
		return Method{}, ErrNotFound
	}
	m, err := a.Methods.EndMethod(ctx, scope, name, fact)
	if err != nil {
		return Method{}, fmt.Errorf("ending enrolment method %s:%.60s: %w", scope, name, err)
	}
	return m, nil
}

// MethodsIn returns the methods of a scope and below.
func (a *CA) MethodsIn(ctx context.Context, who identity.Caller, scope identity.Scope, before int64, limit int) ([]Method, error) {
	if !access.May(who, access.ReadScopes, scope) {
		return nil, ErrNotFound
	}
	if a.Methods == nil {
		return nil, nil
	}
	return a.Methods.MethodsIn(ctx, scope, before, limit)
}

// methodical decides about a method: what it will let in is asked now, and again whenever it is used.
func (a *CA) methodical(ctx context.Context, who identity.Caller, m Method) error {
	if err := access.Check(who, access.ChangeScopes, m.Scope); err != nil {
		return err
	}
	refuse := func(what, remedy string) error {
		return &policy.Refusal{What: what, Rule: "enrolment methods", Remedy: remedy}
	}
	before, star, _ := strings.Cut(m.Subject, "*")
	switch {
	case a.Methods == nil || a.Judge == nil:
		return refuse("an enrolment method", "this service takes one-time tokens alone")
	case !slices.Contains(ProofKinds, string(m.Kind)):
		return refuse(fmt.Sprintf("kind %.40q", m.Kind), "use one of "+strings.Join(ProofKinds, ", "))
	case !methodName.MatchString(m.Name):
		return refuse(fmt.Sprintf("method name %.60q", m.Name), "use a-z, 0-9 and hyphens, up to 40, beginning with a letter")
	case m.Subject == "" || len(m.Subject) > maxSubject || star != "" || strings.Count(m.Subject, "*") > 1:
		return refuse("a method without a subject", "say whom proofs must be about, with at most one * at the end")
	case before == "" && len(m.Claims) == 0 && (m.Kind == OIDC || m.Kind == Kubernetes):
		return refuse("a method for everybody its issuer knows", "narrow the subject, or ask for a claim")
	case m.Kind == Kubernetes && m.Workload == "" && strings.Count(before, ":") != 3:
		return refuse("workloads named by service accounts of several namespaces", "name one namespace, as in system:serviceaccount:shop:*, or the workload")
	case (m.Kind == OIDC || m.Kind == Kubernetes) && len(m.Keys) == 0 && m.Cluster == "" && !strings.HasPrefix(m.Issuer, "https://") && !access.May(who, access.ChangeScopes, identity.Platform):
		return refuse("an issuer that is not asked over https", "use https: what listens on this machine is the platform's") // internal/oidc takes http there
	case len(m.Names) > 0 && m.Workload == "":
		return refuse("host names for whoever a proof names", "name the workload that they belong to")
	}
	if _, err := a.invitation(ctx, Invitation{Scope: m.Scope, Profile: m.Profile, Workload: orName(m.Workload), Names: m.Names, Life: DefaultTokenLife}); err != nil {
		return err
	}
	if err := a.Judge.Check(m); err != nil {
		return refuse("method "+m.Name, err.Error())
	}
	if err := a.notOurs(m); err != nil {
		return err
	}
	return a.letIn(ctx, who, m.Scope, m.terms())
}

// terms say all of m in words, what is long by its hash.
func (m Method) terms() string {
	return fmt.Sprintf("enrolment method %s: %s by profile %s, workload %q, names %v, subject %q, issuer %q, audience %q, claims %q, keys %x, roots %x, cluster %q",
		m.Ref(), m.Kind, m.Profile, m.Workload, m.Names, m.Subject, m.Issuer, m.Audience, m.Claims, sha256.Sum256(m.Keys), sha256.Sum256(m.Roots), m.Cluster)
}

const maxSubject = 256

// orName stands in for whom a proof will name.
func orName(workload string) string {
	if workload == "" {
		return "proved"
	}
	return workload
}

// notOurs refuses to take our own certificates for proofs: who has one renews it, and who had one taken away must not come
// back by it. Nor does an emergency CA let anybody in here.
func (a *CA) notOurs(m Method) error {
	if m.Kind != X5C {
		return nil
	}
	for _, root := range parsePEM(m.Roots) {
		if err := apartFrom(a.BreakGlass.Certificate("root "+root.Subject.String(), root)); err != nil {
			return err
		}
		for _, auth := range a.Authorities() {
			if auth.Certificate != nil && string(auth.Certificate.RawSubjectPublicKeyInfo) == string(root.RawSubjectPublicKeyInfo) {
				return &policy.Refusal{What: "root " + auth.Name, Rule: "enrolment methods", Remedy: "it is one of ours: who has its certificates renews them"}
			}
		}
	}
	return nil
}
