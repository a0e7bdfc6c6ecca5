package ca

import (
	"context"
	"errors"
	"fmt"
	"time"

	"crypto/x509"

	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/policy"
)

// An Impact is what a change would do to the certificates that are there.
type Impact struct {
	Live    int        // certificates that are valid and were looked at
	Refused int        // of these: how many would not be renewed
	Shorter int        // of the others: how many would get a shorter life
	All     bool       // every certificate was looked at that the change could touch
	First   []Affected // the first of those refused, in the order of their expiry
}

// Affected is a certificate that would not be renewed, and by which rule.
type Affected struct {
	Certificate
	Rule, Remedy string
}

// Bounds of a look.
const (
	impactMost  = 100_000
	impactFirst = 100
	impactPage  = 1000
	impactFor   = 20 * time.Second
)

// PreviewProfile says what SetProfile would do to the certificates of the profile, and changes nothing. What SetProfile would refuse
// it refuses too, without writing that down.
func (a *CA) PreviewProfile(ctx context.Context, who identity.Caller, c ProfileChange) (Impact, error) {
	row, err := a.judge(ctx, who, c)
	if err != nil {
		return Impact{}, err
	}
	next, err := a.after(a.authorities.Load(), row)
	if err != nil {
		return Impact{}, err
	}
	q := Query{Scope: c.Scope, Profile: c.Name}
	if c.Scope.IsPlatform() {
		q.Scope = identity.Scope{}
	}
	return a.Impact(ctx, q, func(old Certificate) (time.Duration, error) {
		p, ok := next.in(old.Scope, c.Name)
		if !ok {
			return 0, &policy.Refusal{What: "profile " + c.Name, Rule: "the list of profiles"}
		}
		return p.Max, p.again(old)
	})
}

// Impact walks the valid certificates that q selects and counts which judge refuses to renew: a *policy.Refusal. Judge also says how
// long the next may live. Whoever changes a rule asks this before; it is bounded in number and in time.
func (a *CA) Impact(ctx context.Context, q Query, judge func(Certificate) (time.Duration, error)) (Impact, error) {
	end, cancel := context.WithTimeout(ctx, impactFor)
	defer cancel()
	out := Impact{First: []Affected{}}
	for q.ExpiringAfter, q.Limit = a.Now(), impactPage; ; {
		page, err := a.Ledger.Select(end, q)
		switch {
		case err != nil && end.Err() != nil && ctx.Err() == nil:
			return out, nil // what could be counted in time
		case err != nil:
			return out, fmt.Errorf("looking for certificates that a change would touch: %w", err)
		}
		for _, rec := range page.Records {
			if err := a.touch(rec, judge, &out); err != nil {
				return out, err
			}
		}
		if !page.More || out.Live >= impactMost {
			out.All = !page.More
			return out, nil
		}
		q.After = page.Next
	}
}

func (a *CA) touch(rec Record, judge func(Certificate) (time.Duration, error), out *Impact) error {
	if rec.Revoked != nil || rec.Signature == nil {
		return nil
	}
	c, err := a.certificate(rec)
	if err != nil {
		return err
	}
	out.Live++
	longest, err := judge(c)
	r, refused := errors.AsType[*policy.Refusal](err)
	switch {
	case err != nil && !refused:
		return err
	case refused:
		if out.Refused++; len(out.First) < impactFirst {
			out.First = append(out.First, Affected{c, r.Rule, r.Remedy})
		}
	case c.NotAfter.Sub(c.NotBefore)+time.Second > longest:
		out.Shorter++
	}
	return nil
}

// again refuses a certificate's successor, as far as the profile decides.
func (p *Profile) again(old Certificate) error {
	if err := p.open(); err != nil {
		return err
	}
	x, err := x509.ParseCertificate(old.DER)
	if err != nil {
		return fmt.Errorf("reading certificate %s from the ledger: %w", old.Serial, err)
	}
	csr := cert.Request{Key: x.PublicKey, SPKI: x.RawSubjectPublicKeyInfo, Names: old.Names, CommonName: old.Role}
	req := Request{Scope: old.Scope, Profile: p.Name, CSR: csr, What: audit.Renew}
	if _, err := p.names(req); err != nil {
		return err
	}
	if _, err := p.role(req); err != nil {
		return err
	}
	return p.key(csr)
}
