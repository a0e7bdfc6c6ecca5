package ca

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"codeberg.org/dataverket/segl/internal/access"
	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/policy"
	"codeberg.org/dataverket/segl/internal/uid"
)

// Renew makes the one successor of the certificate that who showed. It is a whole decision: profile, scope, name rights and
// key are asked again, as if for the first time; only the names and the length of life come from the certificate. The
// same key asked again gets the same successor; another key gets ErrConflict, naming it.
func (a *CA) Renew(ctx context.Context, who identity.Caller, csr cert.Request) (Certificate, error) {
	nothing := Request{Scope: who.Scope, What: audit.Renew}
	if who.Serial.IsZero() {
		return Certificate{}, a.refused(ctx, who, nothing, &policy.Refusal{
			What: "renewal", Rule: "proof of possession",
			Remedy: "connect with the certificate that is to be renewed",
		})
	}
	old, err := a.Certificate(ctx, who.Serial)
	if errors.Is(err, ErrNotFound) {
		return Certificate{}, a.refused(ctx, who, nothing, &policy.Refusal{
			What: "certificate " + who.Serial.String(), Rule: "the ledger",
			Remedy: "it was never issued as far as the ledger knows: enrol again",
		})
	}
	if err != nil {
		return Certificate{}, fmt.Errorf("reading certificate %s: %w", who.Serial, err)
	}
	if who.Scope.IsZero() { // whoever shows a certificate without an identity acts where that certificate is
		who.Scope = old.Scope
	}
	req := Request{
		Scope: old.Scope, Profile: old.Profile, CSR: csr, What: audit.Renew,
		Life: old.NotAfter.Sub(old.NotBefore) + time.Second, Origin: Origin{ID: old.Serial.UID()}, Replaces: old.Serial,
	}
	if err := sameNames(csr, old); err != nil {
		return Certificate{}, a.refused(ctx, who, req, err)
	}
	req.CSR.Names, req.CSR.CommonName = old.Names, old.Role
	if p, err := a.Profile(old.Scope, old.Profile); err == nil && p.broken == nil {
		req.Life = min(req.Life, p.Max)
	}
	if old.Revoked != nil {
		return Certificate{}, a.refused(ctx, who, req, ErrCallerRevoked)
	}
	if old.Origin.Kind() == uid.Order { // else control over a name would be proved once, for ever
		return Certificate{}, a.refused(ctx, who, req, &policy.Refusal{
			What: "certificate " + old.Serial.String(), Rule: "orders are validated each time",
			Remedy: "it came by ACME: order again",
		})
	}
	if !a.Now().Before(old.NotAfter.Add(time.Second)) {
		return Certificate{}, a.refused(ctx, who, req, &policy.Refusal{What: "certificate " + old.Serial.String(), Rule: "its validity", Remedy: "it has expired: enrol again"})
	}
	return a.Issue(ctx, who, req)
}

// sameNames lets a renewal's CSR repeat the certificate's names or carry none: a renewal never adds one.
func sameNames(csr cert.Request, old Certificate) error {
	for _, n := range csr.Names {
		if !slices.Contains(old.Names, n) {
			return &policy.Refusal{What: n.String(), Rule: "renewal keeps the names", Remedy: "leave it out, or ask for a new certificate"}
		}
	}
	role, _, _ := strings.Cut(old.Role, "@")
	if cn := csr.CommonName; cn != "" && cn != old.Role && cn != role && !named(old.Names, cn) {
		return &policy.Refusal{What: fmt.Sprintf("common name %.64q", cn), Rule: "renewal keeps the names", Remedy: "leave it out, or ask for a new certificate"}
	}
	return nil
}

// Revoke ends certificate s. The holder of the certificate, whoever may act in its scope, and operators may revoke; reasons
// that speak of an authority are for operators. Revoking for keyCompromise blocks the key for ever. ErrAlreadyRevoked
// leaves the first revocation as it was.
func (a *CA) Revoke(ctx context.Context, who identity.Caller, s cert.Serial, why cert.Reason) (Certificate, error) {
	c, err := a.Certificate(ctx, s)
	if err != nil {
		return Certificate{}, fmt.Errorf("reading certificate %s: %w", s, err)
	}
	return a.End(ctx, who, c, why)
}

// End is Revoke of a certificate that was read a moment ago.
func (a *CA) End(ctx context.Context, who identity.Caller, c Certificate, why cert.Reason) (Certificate, error) {
	s := c.Serial
	fact := audit.Fact{At: a.Now(), Who: who, Scope: c.Scope, What: audit.Revoke, Serial: s, Why: why.String()}
	if err := mayRevoke(who, c, why); err != nil {
		return Certificate{}, a.refuse(ctx, fact, err.Rule, err)
	}
	r := Revocation{Serial: s, At: fact.At.Truncate(time.Second), Reason: why, Caller: who.Serial, Fact: fact}
	if who.Serial == s {
		r.Caller = cert.Serial{} // a certificate may always end itself; asking twice is ErrAlreadyRevoked
	}
	if why == cert.KeyCompromise {
		r.BlockKey = c.Key
	}
	switch err := a.Ledger.Revoke(ctx, r); {
	case errors.Is(err, ErrAlreadyRevoked):
		if now, rerr := a.Certificate(ctx, s); rerr == nil { // perhaps a moment ago, by somebody else
			c = now
		}
		return c, err
	case errors.Is(err, ErrCallerRevoked):
		return Certificate{}, a.refuse(ctx, fact, "revocation", err)
	case err != nil:
		return Certificate{}, fmt.Errorf("revoking certificate %s: %w", s, err)
	}
	c.Revoked = &Revoked{At: r.At, Reason: why}
	return c, nil
}

func mayRevoke(who identity.Caller, c Certificate, why cert.Reason) *policy.Refusal {
	if who.Serial != c.Serial || who.Serial.IsZero() {
		if r := access.Judge(who, access.Revoke, c.Scope); r != nil {
			return r
		}
	}
	if !why.Subscriber() && !access.May(who, access.RevokeAnyhow, identity.Platform) {
		return &policy.Refusal{What: "reason " + why.String(), Rule: "reasons a holder may give", Remedy: "use unspecified, keyCompromise, affiliationChanged, superseded or cessationOfOperation"}
	}
	return nil
}

// Abandon ends the intents left open by a crash or a lost reply. It is the recover duty's work.
func (a *CA) Abandon(ctx context.Context) ([]cert.Serial, error) {
	now := a.Now()
	f := audit.Fact{At: now, Who: identity.System("recover"), What: audit.Abandon}
	gone, err := a.Ledger.Abandon(ctx, now.Add(-a.AbandonAfter), f)
	if err != nil {
		return nil, fmt.Errorf("abandoning open intents: %w", err)
	}
	return gone, nil
}
