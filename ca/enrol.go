package ca

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
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

// Bounds of an enrolment token's life.
const (
	DefaultTokenLife = time.Hour
	MaxTokenLife     = 7 * day
)

// tokenPrefix makes a leaked token recognisable to scanners.
const tokenPrefix = "segl_enrol_"

// An Invitation asks for a one-time enrolment token.
type Invitation struct {
	Scope    identity.Scope
	Profile  string // empty means workload
	Workload string
	Names    []cert.Name   // host names the workload may have besides its identity
	Life     time.Duration // zero means DefaultTokenLife
}

// Invite makes a one-time token with which one workload gets its first certificate. The token is returned once and kept
// only as a hash.
func (a *CA) Invite(ctx context.Context, who identity.Caller, in Invitation) (token string, e Enrolment, err error) {
	if in.Profile == "" {
		in.Profile = "workload"
	}
	if in.Life == 0 {
		in.Life = DefaultTokenLife
	}
	fact := audit.Fact{At: a.Now(), Who: who, Scope: in.Scope, What: audit.EnrolmentMade, Subject: in.Workload}
	id, err := a.invited(ctx, who, in)
	if r, ok := errors.AsType[*policy.Refusal](err); ok {
		return "", Enrolment{}, a.refuse(ctx, fact, r.Rule, err)
	}
	if err != nil {
		return "", Enrolment{}, err
	}
	secret := make([]byte, 32)
	if _, err := rand.Read(secret); err != nil {
		return "", Enrolment{}, fmt.Errorf("drawing a token: %w", err)
	}
	now := a.Now()
	e = Enrolment{
		Token: uid.New(uid.Enrolment, a.Site, now), Hash: sha256.Sum256(secret), Scope: in.Scope, Profile: in.Profile, ID: id,
		Names: in.Names, MadeAt: now, Expires: now.Add(in.Life),
	}
	fact.Subject = e.Token.String() + " " + id.String()
	err = a.Ledger.AddEnrolment(ctx, e, fact)
	if errors.Is(err, ErrCallerRevoked) {
		return "", Enrolment{}, a.refuse(ctx, fact, "revocation", err)
	}
	if err != nil {
		return "", Enrolment{}, fmt.Errorf("recording enrolment token %s: %w", e.Token, err)
	}
	return tokenPrefix + e.Token.String() + "_" + base64.RawURLEncoding.EncodeToString(secret), e, nil
}

// invited decides about an invitation: what the token will be worth is asked now, and again when it is used.
func (a *CA) invited(ctx context.Context, who identity.Caller, in Invitation) (identity.ID, error) {
	if err := access.Check(who, access.Invite, in.Scope); err != nil {
		return identity.ID{}, err
	}
	id, err := a.invitation(ctx, in)
	if err != nil {
		return identity.ID{}, err
	}
	return id, a.letIn(ctx, who, in.Scope, fmt.Sprintf("invite %s by profile %s, names %v, for %s", id, in.Profile, in.Names, in.Life))
}

// invitation decides what an invitation may be about, whoever asks.
func (a *CA) invitation(ctx context.Context, in Invitation) (identity.ID, error) {
	p, err := a.Profile(in.Scope, in.Profile)
	if err == nil {
		err = p.open()
	}
	if err != nil {
		return identity.ID{}, err
	}
	if p.Identity != Required || p.Role {
		return identity.ID{}, &policy.Refusal{What: "enrolment for profile " + p.Name, Rule: "enrolment gives identities", Remedy: "use profile workload or client"}
	}
	if in.Life < time.Second || in.Life > MaxTokenLife {
		return identity.ID{}, &policy.Refusal{What: "a token life of " + in.Life.String(), Rule: "enrolment tokens", Remedy: "ask for at most " + MaxTokenLife.String()}
	}
	id, err := identity.NewID(a.TrustDomain, in.Scope, in.Workload)
	if err != nil {
		return identity.ID{}, &policy.Refusal{What: "workload " + in.Workload, Rule: "the form of an identity", Remedy: err.Error()}
	}
	chain, err := a.Scopes.Chain(ctx, in.Scope)
	if err != nil {
		return identity.ID{}, fmt.Errorf("reading the name rights of %s: %w", in.Scope, err)
	}
	uri, err := cert.ParseURI(id.String())
	if err != nil {
		return identity.ID{}, err
	}
	return id, chain.Allow(append([]cert.Name{uri}, in.Names...)...)
}

// errToken is the one answer to every token that lets nobody in, so that nobody learns which part was wrong.
func errToken() error {
	return &policy.Refusal{What: "the enrolment token", Rule: "one-time enrolment", Remedy: "it is unknown, expired or malformed: ask for a new one"}
}

// ErrTokenUsed is wrapped when a token has let somebody else in.
var ErrTokenUsed = errors.New("the enrolment token was used before, with another key")

// Enrol trades a one-time token and a CSR for the workload's first certificate. Use is single because an origin has one
// certificate: the same token with the same key gets the same certificate again, should the answer have been lost.
func (a *CA) Enrol(ctx context.Context, who identity.Caller, token string, csr cert.Request) (Certificate, error) {
	id, secret, ok := splitToken(token)
	if !ok {
		return Certificate{}, a.refused(ctx, who, Request{What: audit.EnrolmentUsed}, errToken())
	}
	e, err := a.Ledger.Enrolment(ctx, id)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return Certificate{}, fmt.Errorf("reading enrolment token %s: %w", id, err)
	}
	who = who.As("enrolment:"+id.String(), e.Scope)
	sum := sha256.Sum256(secret)
	if subtle.ConstantTimeCompare(sum[:], e.Hash[:]) != 1 || err != nil {
		return Certificate{}, a.refused(ctx, who, Request{Scope: e.Scope, What: audit.EnrolmentUsed}, errToken())
	}
	return a.enrol(ctx, who, e, csr)
}

// enrol issues what an enrolment is worth, whatever proved it.
func (a *CA) enrol(ctx context.Context, who identity.Caller, e Enrolment, csr cert.Request) (Certificate, error) {
	if a.Admitted != nil {
		a.Admitted(ctx, e.Scope)
	}
	req := Request{
		Scope: e.Scope, Profile: e.Profile, CSR: csr, Identity: e.ID, Origin: Origin{ID: e.Token},
		Also: []audit.Fact{{Who: who, Scope: e.Scope, What: audit.EnrolmentUsed, Subject: e.Token.String()}},
	}
	if !a.Now().Before(e.Expires) {
		return Certificate{}, a.refused(ctx, who, req, errToken())
	}
	if err := invitedNames(csr, e); err != nil {
		return Certificate{}, a.refused(ctx, who, req, err)
	}
	c, err := a.Issue(ctx, who, req)
	if errors.Is(err, ErrConflict) {
		return Certificate{}, fmt.Errorf("%w: %w", ErrTokenUsed, err)
	}
	return c, err
}

// invitedNames refuses names that the token was not made for.
func invitedNames(csr cert.Request, e Enrolment) error {
	for _, n := range csr.Names {
		if n.Value() != e.ID.String() && !slices.Contains(e.Names, n) {
			return &policy.Refusal{What: n.String(), Rule: "the enrolment token's names", Remedy: "ask for a token that includes it, or leave it out"}
		}
	}
	return nil
}

func splitToken(token string) (uid.UID, []byte, bool) {
	rest, ok := strings.CutPrefix(token, tokenPrefix)
	if !ok || len(token) > 200 {
		return uid.UID{}, nil, false
	}
	name, enc, ok := strings.Cut(rest, "_")
	if !ok {
		return uid.UID{}, nil, false
	}
	id, err := uid.Parse(name)
	secret, err2 := base64.RawURLEncoding.DecodeString(enc)
	oneSpelling := base64.RawURLEncoding.EncodeToString(secret) == enc // the decoder skips line breaks and spare bits
	return id, secret, err == nil && err2 == nil && oneSpelling && id.Kind() == uid.Enrolment && len(secret) == 32
}
