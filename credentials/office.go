package credentials

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"codeberg.org/dataverket/segl/internal/access"
	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/policy"
)

// A Config is what an Office is made of.
type Config struct {
	Site         byte
	Book         Book
	Certificates Certificates
	Backends     map[Kind]Backend
	Now          func() time.Time
	// Fenced returns why nothing may be made or extended now, and no stray be swept, or nil. Nil: there is no fence.
	Fenced func() error
	// Count is told of each event, of which there are a few words, by the kind of target. Nil: nobody is.
	Count func(event string, kind Kind, n int)
	// Wake is told that there is something for Cascade. Nil: its poll suffices.
	Wake func()
}

// An Office makes leases, and ends them.
type Office struct {
	Config

	mu    sync.Mutex // guards below
	heard map[cert.Serial]bool
	all   bool // so much ended that everything is to be looked at
}

// New returns an Office.
func New(c Config) *Office {
	if c.Book == nil || c.Certificates == nil || c.Now == nil {
		panic("credentials: internal error: a book, certificates and a clock are required")
	}
	if c.Count == nil {
		c.Count = func(string, Kind, int) {}
	}
	if c.Wake == nil {
		c.Wake = func() {}
	}
	return &Office{Config: c, heard: make(map[cert.Serial]bool), all: true}
}

// The events that Count is told of.
const (
	CountMade     = "made"
	CountExtended = "renewed"
	CountEnded    = "ended"
	CountGone     = "gone"
	CountFailed   = "failed"
	CountStray    = "orphan"
)

// Events returns them all.
func Events() []string {
	return []string{CountMade, CountExtended, CountEnded, CountGone, CountFailed, CountStray}
}

func (o *Office) backend(t Target) (Backend, error) {
	if b, ok := o.Backends[t.Kind]; ok {
		return b, nil
	}
	return nil, fmt.Errorf("%w: nothing here serves targets of kind %s", ErrUnprepared, t.Kind)
}

// refused records a refusal and returns it; what is no rule's passes.
func (o *Office) refused(ctx context.Context, f audit.Fact, err error) error {
	r, ok := errors.AsType[*policy.Refusal](err)
	rule := ""
	switch {
	case ok:
		rule = r.Rule
	case errors.Is(err, ErrTooMany), errors.Is(err, ErrSuspended), errors.Is(err, ErrMixed), errors.Is(err, ErrGroup), errors.Is(err, ErrOthers):
		rule = err.Error()
	default:
		return err
	}
	f.Refused, f.Why = true, rule
	if ferr := o.Book.Refuse(context.WithoutCancel(ctx), f); ferr != nil {
		return fmt.Errorf("recording a refusal (%s): %w", rule, ferr)
	}
	return err
}

func (o *Office) fact(who identity.Caller, s identity.Scope, what, subject string) audit.Fact {
	return audit.Fact{At: o.Now(), Who: who, Scope: s, What: what, Subject: subject, Serial: who.Serial}
}

// may asks whether who may do what at s, and records where not.
func (o *Office) may(ctx context.Context, who identity.Caller, what access.Action, f audit.Fact) error {
	return o.refused(ctx, f, access.Check(who, what, f.Scope))
}

// AddTarget records a target after a look at it: that it can be reached, keeps the time, and that we may do there what we need
// and no more.
func (o *Office) AddTarget(ctx context.Context, who identity.Caller, t Target) (Target, error) {
	f := o.fact(who, t.Scope, audit.TargetMade, string(t.Name))
	if err := o.may(ctx, who, access.ChangeCredentials, f); err != nil {
		return Target{}, err
	}
	if err := t.Check(); err != nil {
		return Target{}, &policy.Refusal{What: "target", Rule: "the form of targets", Remedy: err.Error()}
	}
	b, err := o.backend(t)
	if err != nil {
		return Target{}, err
	}
	if err := b.Check(ctx, t); err != nil {
		return Target{}, fmt.Errorf("looking at %s: %w", t.Address, err)
	}
	t.MadeAt = f.At
	t, err = o.Book.AddTarget(ctx, t, f)
	return t, o.refused(ctx, f, err)
}

// EndTarget ends a target and everything that was made there.
func (o *Office) EndTarget(ctx context.Context, who identity.Caller, s identity.Scope, name Label) error {
	f := o.fact(who, s, audit.TargetEnded, string(name))
	if err := o.may(ctx, who, access.ChangeCredentials, f); err != nil {
		return err
	}
	defer o.Wake()
	return o.Book.EndTarget(ctx, s, name, f.At, f)
}

// AddBinding records who gets what. Its target is one in the binding's scope or above: the platform's for the platform alone.
func (o *Office) AddBinding(ctx context.Context, who identity.Caller, b Binding) (Binding, error) {
	f := o.fact(who, b.Scope, audit.CredentialBound, string(b.Name))
	if err := o.may(ctx, who, access.ChangeCredentials, f); err != nil {
		return Binding{}, err
	}
	if b.Logs() {
		at := b.Target.Scope
		if at.IsZero() {
			at = b.Scope
		}
		if !at.Contains(b.Scope) {
			return Binding{}, o.refused(ctx, f, fmt.Errorf("%w: %s cannot use a target of %s", ErrMixed, b.Scope, at))
		}
		t, err := o.nearest(ctx, at, b.Target)
		if err != nil {
			return Binding{}, fmt.Errorf("finding target %s: %w", b.Target.Name, err)
		}
		b.Target = t
	}
	if err := b.Check(); err != nil {
		return Binding{}, &policy.Refusal{What: "binding", Rule: "the form of bindings", Remedy: err.Error()}
	}
	if b.Way == Static && b.Target.Kind != PostgreSQL || b.Way == Certificate && b.Target.Kind == Redis {
		return Binding{}, &policy.Refusal{What: "way " + string(b.Way), Rule: "what targets of kind " + string(b.Target.Kind) + " can do", Remedy: "use " + string(Leased)}
	}
	b.MadeAt = f.At
	return o.Book.AddBinding(ctx, b, f)
}

// nearest returns the target of that name in s or the nearest above; where its scope was said, in that alone.
func (o *Office) nearest(ctx context.Context, s identity.Scope, want Target) (Target, error) {
	for {
		t, err := o.Book.Target(ctx, s, want.Name)
		above, ok := s.Parent()
		if err == nil || !errors.Is(err, ErrNotFound) || !ok || !want.Scope.IsZero() {
			return t, err
		}
		s = above
	}
}

// EndBinding ends a binding and all that was derived from it.
func (o *Office) EndBinding(ctx context.Context, who identity.Caller, s identity.Scope, name Label) error {
	f := o.fact(who, s, audit.CredentialUnbound, string(name))
	if err := o.may(ctx, who, access.ChangeCredentials, f); err != nil {
		return err
	}
	defer o.Wake()
	return o.Book.EndBinding(ctx, s, name, f.At, f)
}

// Targets returns those of s and below.
func (o *Office) Targets(ctx context.Context, who identity.Caller, s identity.Scope) ([]Target, error) {
	if err := access.Check(who, access.ReadCredentials, s); err != nil {
		return nil, err
	}
	return o.Book.Targets(ctx, s)
}

// Bindings returns those of s and below.
func (o *Office) Bindings(ctx context.Context, who identity.Caller, s identity.Scope) ([]Binding, error) {
	if err := access.Check(who, access.ReadCredentials, s); err != nil {
		return nil, err
	}
	return o.Book.Bindings(ctx, s)
}

// common is the common name that a database client's certificate has for a role of s: <role>@<environment>.<project>.<tenant>.
func common(role Word, s identity.Scope) string {
	parts := strings.Split(s.String(), "/")
	for i, j := 0, len(parts)-1; i < j; i, j = i+1, j-1 {
		parts[i], parts[j] = parts[j], parts[i]
	}
	return string(role) + "@" + strings.Join(parts, ".")
}
