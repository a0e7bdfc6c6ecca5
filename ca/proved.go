package ca

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/policy"
	"codeberg.org/dataverket/segl/internal/uid"
)

// maxProof bounds a proof before anything is read of it.
const maxProof = 64 << 10

// EnrolBy trades a proof that a method takes and a CSR for a certificate. A proof is good once: it becomes an enrolment under a
// name that only this proof has, and from there on is a one-time token. So the same proof with the same key gets the same
// certificate again, on every replica, and with another key nothing.
func (a *CA) EnrolBy(ctx context.Context, who identity.Caller, method, proof string, csr cert.Request) (Certificate, error) {
	m, err := a.methodNamed(ctx, method)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return Certificate{}, fmt.Errorf("reading enrolment method %.100q: %w", method, err)
	}
	by := "unknown" // whoever invents methods is one in the bounds of what is written down
	if err == nil {
		by = m.Ref()
	}
	who = who.As("enrolment:"+by, identity.Scope{})
	f := audit.Fact{Who: who, Scope: m.Scope, What: audit.EnrolmentUsed, Subject: "a proof"}
	if err != nil || len(proof) > maxProof {
		return Certificate{}, a.turned(ctx, f, errProof("it is unknown here, or was ended, or the proof is malformed"))
	}
	p, err := a.Judge.Prove(ctx, m, proof)
	if errors.Is(err, ErrProof) {
		return Certificate{}, a.turned(ctx, f, errProof(err.Error()))
	}
	if err != nil {
		return Certificate{}, fmt.Errorf("%w: judging a proof for %s: %w", ErrUnavailable, m.Ref(), err)
	}
	f.Subject = fmt.Sprintf("a proof about %.150s", p.Subject)
	workload, err := m.lets(p, a.Now())
	if err != nil {
		return Certificate{}, a.turned(ctx, f, err)
	}
	if a.Admitted != nil {
		a.Admitted(ctx, m.Scope)
	}
	e, err := a.spend(ctx, who, m, p, workload)
	if err != nil {
		if r, ok := errors.AsType[*policy.Refusal](err); ok {
			return Certificate{}, a.turned(ctx, f, r)
		}
		return Certificate{}, err
	}
	return a.enrol(ctx, who.As("enrolment:"+e.Token.String(), e.Scope), e, csr)
}

// errProof is the answer to a proof that lets nobody in.
func errProof(why string) error {
	return &policy.Refusal{What: "the enrolment proof", Rule: "the enrolment method", Remedy: why}
}

// turned writes down that a proof was refused, as far as strangers may have us write, and returns err.
func (a *CA) turned(ctx context.Context, f audit.Fact, err error) error {
	r, ok := errors.AsType[*policy.Refusal](err)
	if !ok {
		return err
	}
	if ferr := a.TurnedAway(ctx, f, r.Rule); ferr != nil {
		return fmt.Errorf("recording a refusal (%s): %w", r.Rule, ferr)
	}
	return err
}

// methodNamed returns the method of a Ref, or ErrNotFound.
func (a *CA) methodNamed(ctx context.Context, ref string) (Method, error) {
	path, name, ok := strings.Cut(ref, ":")
	scope, err := identity.ParseScope(path)
	if !ok || err != nil || !methodName.MatchString(name) || a.Methods == nil || a.Judge == nil {
		return Method{}, ErrNotFound
	}
	return a.Methods.MethodNamed(ctx, scope, name)
}

// lets decides whom a good proof lets in.
func (m Method) lets(p Proved, now time.Time) (workload string, err error) {
	const skew = time.Minute
	before, _, open := strings.Cut(m.Subject, "*")
	switch {
	case !open && p.Subject != m.Subject || open && !strings.HasPrefix(p.Subject, before):
		return "", errProof(fmt.Sprintf("it is about %.150q, who is not let in by it", p.Subject))
	case p.Issued.IsZero() || p.Issued.After(now.Add(skew)) || now.Sub(p.Issued) > MaxProofAge:
		return "", errProof(fmt.Sprintf("it must say when it was made (iat), at most %s ago: get a new one", MaxProofAge))
	case !now.Before(p.Expires):
		return "", errProof("it has expired: get a new one")
	case (m.Kind == JWK || m.Kind == X5C) && p.Expires.Sub(p.Issued) > maxOwnProof:
		return "", errProof(fmt.Sprintf("one that is made for this may be good for %s at most", maxOwnProof))
	}
	for name, value := range m.Claims {
		if !slices.Contains(p.Claims[name], value) {
			return "", errProof(fmt.Sprintf("its claim %.60s is not what the method asks", name))
		}
	}
	if m.Workload != "" {
		return m.Workload, nil
	}
	if m.Kind == Kubernetes {
		return p.Subject[strings.LastIndexByte(p.Subject, ':')+1:], nil
	}
	return p.Subject, nil
}

// maxOwnProof is how long a proof may live whose maker chooses that.
const maxOwnProof = time.Hour

// spend writes down that a proof was used: as an enrolment under a name that is the proof's own. Using it again finds it there.
func (a *CA) spend(ctx context.Context, who identity.Caller, m Method, p Proved, workload string) (Enrolment, error) {
	id, err := identity.NewID(a.TrustDomain, m.Scope, workload)
	if err != nil {
		return Enrolment{}, errProof(fmt.Sprintf("it names %.70q, which is no workload's name", workload))
	}
	// The epoch and not the second: a proof made again in another second under the same name is the same proof.
	sum := sha256.Sum256([]byte("segl proof\x00" + strconv.FormatInt(m.ID, 10) + "\x00" + string(p.Once[:])))
	// The row is a one-time token's, of 32 octets whose hash is this: it is one of more octets, which nobody can send for a token's.
	e := Enrolment{
		Token: uid.Derive(uid.Enrolment, a.Site, uid.EpochOf(p.Issued).Start(), sum), Hash: sum, Scope: m.Scope, Profile: m.Profile, ID: id,
		Names: m.Names, MadeAt: a.Now(), Expires: p.Expires,
	}
	had, err := a.Ledger.Enrolment(ctx, e.Token)
	if errors.Is(err, ErrNotFound) {
		f := audit.Fact{At: e.MadeAt, Who: who, Scope: m.Scope, What: audit.EnrolmentMade, Subject: fmt.Sprintf("%s %s, proved as %.100s", e.Token, id, p.Subject)}
		if err = a.Ledger.AddEnrolment(ctx, e, f); err == nil {
			return e, nil
		}
		if errors.Is(err, ErrConflict) { // another replica was faster
			had, err = a.Ledger.Enrolment(ctx, e.Token)
		}
	}
	if err != nil {
		return Enrolment{}, fmt.Errorf("recording the use of a proof: %w", err)
	}
	if had.ID != id || had.Profile != e.Profile {
		return Enrolment{}, errProof("it was used before, for somebody else")
	}
	return had, nil
}

// parsePEM returns the certificates in a text, leaving out what is none.
func parsePEM(text []byte) (list []*x509.Certificate) {
	for {
		var b *pem.Block
		if b, text = pem.Decode(text); b == nil {
			return list
		}
		if c, err := x509.ParseCertificate(b.Bytes); err == nil && b.Type == "CERTIFICATE" {
			list = append(list, c)
		}
	}
}
