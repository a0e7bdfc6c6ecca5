package ca

import (
	"context"
	"errors"
	"fmt"
	"time"

	"codeberg.org/dataverket/segl/ca/tbs"
	"codeberg.org/dataverket/segl/internal/access"
	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/policy"
	"codeberg.org/dataverket/segl/internal/uid"
	"codeberg.org/dataverket/segl/kms"
)

// Issue makes a certificate for req on behalf of who, or returns the one its origin has. Whatever a rule refuses is a
// *policy.Refusal and a fact. ErrInProgress: the same origin is being issued right now. ErrConflict: the origin has a
// certificate for another key or another request.
func (a *CA) Issue(ctx context.Context, who identity.Caller, req Request) (Certificate, error) {
	ctx, cancel := context.WithTimeout(ctx, issueDeadline)
	defer cancel()

	if a.Fence != nil && !req.Own {
		if why := a.Fence(); why != nil {
			return Certificate{}, fmt.Errorf("%w: %w", ErrFenced, why)
		}
	}
	// 1. Decide. Nothing is durable yet but a refusal.
	pl, err := a.decide(ctx, who, req)
	if err != nil {
		return Certificate{}, a.refused(ctx, who, req, err)
	}

	// 2. An abandoned attempt gives its origin another; so does nothing else.
	for attempt := 0; ; attempt++ {
		c, err := a.attempt(ctx, who, req, pl, attempt)
		if !errors.Is(err, ErrOriginTaken) {
			return c, a.refused(ctx, who, req, err)
		}
		had, err := a.Ledger.ByOrigin(ctx, req.Origin.ID)
		if err != nil {
			return Certificate{}, fmt.Errorf("reading the certificate of origin %s: %w", req.Origin.ID, err)
		}
		if !had.Abandoned {
			c, err := a.again(req, had)
			return c, a.refused(ctx, who, req, err)
		}
		attempt = had.Attempt
	}
}

// again answers a request whose origin has a certificate or an open intent: the same to the same, a conflict to others.
func (a *CA) again(req Request, had Record) (Certificate, error) {
	if had.Signature == nil {
		return Certificate{}, ErrInProgress
	}
	c, err := a.certificate(had)
	if err == nil && (c.Scope != req.Scope || c.Key != req.CSR.KeyID || c.Profile != req.Profile || string(had.Origin.Digest) != string(req.Origin.Digest)) {
		return Certificate{}, fmt.Errorf("%w: it has certificate %s", ErrConflict, c.Serial)
	}
	return c, err
}

// A plan is a decided request: who signs what, for how long.
type plan struct {
	profile   *Profile
	authority *Authority
	template  *tbs.Template
	names     []cert.Name
	role      string
	life      time.Duration
	attempt   int // how many attempts of the origin were abandoned
}

// decide asks everything that is to be asked before a key is touched, of every door alike.
func (a *CA) decide(ctx context.Context, who identity.Caller, req Request) (plan, error) {
	set := a.authorities.Load() // the one set that this certificate is made by, whatever changes meanwhile
	p, err := set.profile(req.Scope, req.Profile)
	if err != nil {
		return plan{}, err
	}
	if err := p.open(); err != nil {
		return plan{}, err
	}
	if err := a.apartKey(req.CSR); err != nil {
		return plan{}, apartFrom(err)
	}
	if err := mayIssue(who, req); err != nil {
		return plan{}, err
	}
	chain, err := a.Scopes.Chain(ctx, req.Scope)
	if err != nil {
		return plan{}, fmt.Errorf("reading the name rights of %s: %w", req.Scope, err)
	}
	names, err := p.names(req)
	if err != nil {
		return plan{}, err
	}
	if err := a.ours(names); err != nil {
		return plan{}, err
	}
	if err := chain.Allow(names...); err != nil {
		return plan{}, err
	}
	role, err := p.role(req)
	if err != nil {
		return plan{}, err
	}
	life, err := p.span(req, a.Now())
	if err != nil {
		return plan{}, err
	}
	if err := p.key(req.CSR); err != nil {
		return plan{}, err
	}
	auth, err := set.signing(p.Purpose, req.Scope)
	if err != nil {
		return plan{}, err
	}
	if err := auth.permits(names); err != nil {
		return plan{}, err
	}
	t, err := auth.template(p)
	if err := a.second(ctx, who, req, names); err != nil {
		return plan{}, err
	}
	return plan{profile: p, authority: auth, template: t, names: names, role: role, life: life}, err
}

// mayIssue: who shows the certificate that is to be succeeded may renew it, wherever it is, and who uses an enrolment of the
// platform gets what was decided about when it was made (letIn); for everything else it takes a role.
func mayIssue(who identity.Caller, req Request) error {
	if req.Scope.IsPlatform() && req.Origin.ID.Kind() == uid.Enrolment && who.Proved == req.Scope {
		return nil
	}
	if req.What == audit.Renew && !who.Serial.IsZero() && who.Serial == req.Replaces && who.Scope.Contains(req.Scope) {
		return nil
	}
	return access.Check(who, access.Issue, req.Scope)
}

// second has another operator confirm what would make somebody of the platform: it might be one who confirms. What an enrolment
// is worth was confirmed when it was made (letIn): whoever uses it is named by it, and anybody would be another than that.
func (a *CA) second(ctx context.Context, who identity.Caller, req Request, names []cert.Name) error {
	if req.What == audit.Renew || req.Origin.ID.Kind() == uid.Enrolment {
		return nil
	}
	for _, n := range names {
		if n.Kind() == cert.URI {
			if err := a.letIn(ctx, who, req.Scope, fmt.Sprintf("issue %s to the key %s", n.Value(), req.CSR.KeyID)); err != nil {
				return err
			}
		}
	}
	return nil
}

// letIn decides about what lets somebody into the platform, who may be one that has roles there: that is for who gives roles
// there, and not for who may but issue; and another operator confirms it.
func (a *CA) letIn(ctx context.Context, who identity.Caller, at identity.Scope, terms string) error {
	if !at.IsPlatform() {
		return nil
	}
	if err := access.Check(who, access.Grant, at); err != nil {
		return err
	}
	return a.Guard.Pass(ctx, who, access.Request{Kind: access.WidenPlatform, Scope: at, Terms: terms})
}

// ours refuses identities of another trust domain: nobody would know whose word they are (SPIFFE-ID §2.1).
func (a *CA) ours(names []cert.Name) error {
	for _, n := range names {
		id, err := identity.ParseID(n.Value())
		if n.Kind() == cert.URI && (err != nil || id.Domain() != a.TrustDomain) {
			return &policy.Refusal{What: n.String(), Rule: "the trust domain", Remedy: "identities here begin spiffe://" + a.TrustDomain + "/"}
		}
	}
	return nil
}

// attempt runs the cycle once, from now.
func (a *CA) attempt(ctx context.Context, who identity.Caller, req Request, pl plan, attempt int) (Certificate, error) {
	now := a.Now().Truncate(time.Second)
	v := tbs.Values{
		Serial: cert.NewSerial(a.Site, now), NotBefore: now.Add(-backdate(pl.life)),
		SPKI: req.CSR.SPKI, CommonName: pl.role, Names: pl.names,
	}
	if !req.NotBefore.IsZero() {
		v.NotBefore = req.NotBefore.Truncate(time.Second)
	}
	v.NotAfter = v.NotBefore.Add(pl.life - time.Second) // both ends count (RFC 5280 §4.1.2.5)
	if !req.NotAfter.IsZero() {
		v.NotAfter = req.NotAfter.Truncate(time.Second)
	}
	if err := pl.authority.holds(v.NotBefore, v.NotAfter); err != nil {
		return Certificate{}, err
	}
	if a.Parts != nil {
		var err error
		if v.Parts, err = a.Parts(ctx, pl.authority.ID, v.Serial.Epoch()); err != nil {
			return Certificate{}, fmt.Errorf("finding the list of %s: %w", v.Serial, err)
		}
	}
	pl.attempt = attempt
	return a.cycle(ctx, who, req, pl, v)
}

// cycle builds, lints, intends, signs, compares and completes, in this order.
func (a *CA) cycle(ctx context.Context, who identity.Caller, req Request, pl plan, v tbs.Values) (Certificate, error) {
	// 3. Build and lint. No real key is near it yet.
	body, err := build(pl.template, v, pl.profile)
	if err != nil {
		return Certificate{}, err
	}

	// A key that hangs is not asked, and leaves no intent behind that would have to be abandoned.
	if err := kms.Ready(pl.authority.Key); err != nil {
		return Certificate{}, away(pl.authority, err)
	}

	// 4. Write down what will be signed. A crash after this leaves an open intent, never a stray certificate.
	in := Intent{
		Serial: v.Serial, Authority: pl.authority.ID, Scope: req.Scope, Profile: pl.profile.Name, NotAfter: v.NotAfter,
		TBS: body, Key: req.CSR.KeyID, Caller: who.Serial, Origin: req.Origin, Attempt: pl.attempt,
	}
	if err := a.Ledger.Intend(ctx, in); err != nil {
		return Certificate{}, fmt.Errorf("recording the intent of %s: %w", in.Serial, err)
	}
	sig, err := a.sign(ctx, pl.authority, in)
	if err != nil {
		return Certificate{}, err
	}

	// 7. Write down what was signed, even if the requester has gone.
	done := Completion{Serial: in.Serial, At: a.Now(), Signature: sig, Facts: req.facts(who, in.Serial, pl.profile, a.Now()), Replaces: req.Replaces}
	finish, cancel := context.WithTimeout(context.WithoutCancel(ctx), completeDeadline)
	defer cancel()
	if err := a.Ledger.Complete(finish, done); err != nil {
		return Certificate{}, fmt.Errorf("recording the signature of %s: %w", in.Serial, err)
	}
	return a.fresh(pl, v, in, done)
}

// sign signs the bytes of a durable intent and compares the result with them.
func (a *CA) sign(ctx context.Context, auth *Authority, in Intent) ([]byte, error) {
	// 5. Sign. From here a certificate may exist, whatever we return.
	sig, err := kms.SignMessage(ctx, auth.Key, in.TBS)
	if err != nil {
		return nil, fmt.Errorf("signing %s: %w", in.Serial, away(auth, err))
	}
	// 6. Compare: a key store that signed something else, or faultily, is caught here (Boneh, DeMillo, Lipton 1997).
	if err := kms.Verify(auth.Certificate.PublicKey, in.TBS, sig); err != nil {
		return nil, fmt.Errorf("verifying the signature of %s by %s: %w", in.Serial, auth.Name, err)
	}
	return sig, nil
}

// away says of a key that cannot be asked just now that asking again makes sense, and, as it says itself, when.
func away(auth *Authority, err error) error {
	if errors.Is(err, kms.ErrUnavailable) {
		return fmt.Errorf("%w: authority %s: %w", ErrUnavailable, auth.Name, err)
	}
	return fmt.Errorf("signing with %s: %w", auth.Name, err)
}

// facts are what becomes true when serial is issued.
func (r Request) facts(who identity.Caller, serial cert.Serial, p *Profile, now time.Time) []audit.Fact {
	what := r.What
	if what == "" {
		what = audit.Issue
	}
	facts := []audit.Fact{{At: now, Who: who, Scope: r.Scope, What: what, Serial: serial, Why: p.version()}}
	for _, f := range r.Also {
		f.At, f.Serial = now, serial
		facts = append(facts, f)
	}
	return facts
}

// refused records a refusal and returns its error; other errors pass through. That an origin has another certificate is one:
// somebody else may have used the token or renewed first.
func (a *CA) refused(ctx context.Context, who identity.Caller, req Request, err error) error {
	r, isRule := errors.AsType[*policy.Refusal](err)
	switch {
	case err == nil:
		return nil
	case isRule:
	case errors.Is(err, ErrKeyBlocked):
		r = &policy.Refusal{What: "key " + req.CSR.KeyID.String(), Rule: "the list of compromised keys", Remedy: "make a new key"}
	case errors.Is(err, ErrCallerRevoked):
		r = &policy.Refusal{What: "certificate " + who.Serial.String(), Rule: "revocation", Remedy: "enrol again"}
	case errors.Is(err, ErrSuspended): // since the scope's rights were read
		r = policy.Suspended(req.Scope.String())
		err = r
	case errors.Is(err, ErrConflict):
		r = &policy.Refusal{What: err.Error(), Rule: "one origin has one certificate"}
	default:
		return err
	}
	what := req.What
	if what == "" {
		what = audit.Issue
	}
	f := audit.Fact{At: a.Now(), Who: who, Scope: req.Scope, What: what, Subject: r.What}
	return a.refuse(ctx, f, r.Rule, err)
}

// refuse records f as refused by rule and returns err, or what kept it from being recorded.
func (a *CA) refuse(ctx context.Context, f audit.Fact, rule string, err error) error {
	f.Refused, f.Why = true, rule
	if ferr := a.Ledger.Refuse(context.WithoutCancel(ctx), f); ferr != nil {
		return fmt.Errorf("recording a refusal (%s): %w", rule, ferr)
	}
	return err
}
