// Package remote validates names from several places at once.
//
// What a name's holder shows may differ from place to place: somebody on the way to one of them can show something else. A
// Quorum asks this site's own validator and perspectives elsewhere, and takes an answer only if enough of those agree. What
// was seen is always what this site saw: perspectives agree or do not, and are told everything, so that they keep nothing. A
// perspective is `segl validator` at another place, reached by mutual TLS with certificates of the platform (tls.go); it
// looks by its own rules of where it may reach.
//
// A perspective that does not answer has not agreed: whether that matters is the quorum's to say. All is bounded: time,
// octets, and how many questions a perspective takes at once. Quorums and handlers are safe for concurrent use.
package remote

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"codeberg.org/dataverket/segl/acme"
)

// A Prover is what a place looks with: *validate.Validator.
type Prover interface {
	acme.Validator
	acme.Permission
}

// An Elsewhere is a perspective as a Quorum asks it: *Perspective.
type Elsewhere interface {
	// Name returns what configuration calls it.
	Name() string
	// Validate returns nil if it sees c proved, the problem it found, or an error if it could not be asked.
	Validate(ctx context.Context, c acme.Check) (*acme.Problem, error)
	// Permit is the same of the owner's permission.
	Permit(ctx context.Context, c acme.Check) (*acme.Problem, error)
}

// An Outcome is what became of asking a perspective.
type Outcome string

// The outcomes.
const (
	Agreed    Outcome = "agreed"
	Disagreed Outcome = "disagreed"
	Silent    Outcome = "silent"
)

// patience is how long perspectives are waited for: longer than a check may take, shorter than a validation's lease.
const patience = 24 * time.Second

// A Quorum implements acme.Validator and acme.Permission.
type Quorum struct {
	Here  Prover
	There []Elsewhere
	Need  int // how many of There must agree, 0 to all
	// Observe is told what became of each question. Nil: nobody is.
	Observe func(perspective string, o Outcome)
}

// Check refuses a quorum that can never be met, or that nobody can break.
func (q *Quorum) Check() error {
	if q.Need < 1 || q.Need > len(q.There) {
		return fmt.Errorf("quorum of %d: want 1 to %d, the number of perspectives", q.Need, len(q.There))
	}
	return nil
}

// A vote is one perspective's answer.
type vote struct {
	name    string
	problem *acme.Problem
	err     error
}

// Validate implements acme.Validator. Perspectives are asked while we look ourselves; what this site does not see proved is
// not, whatever they say.
func (q *Quorum) Validate(ctx context.Context, c acme.Check) (acme.Evidence, *acme.Problem) {
	var seen acme.Evidence
	names, p := q.agree(ctx, func(ctx context.Context) *acme.Problem {
		var p *acme.Problem
		seen, p = q.Here.Validate(ctx, c)
		return p
	}, func(ctx context.Context, e Elsewhere) (*acme.Problem, error) { return e.Validate(ctx, c) })
	if p != nil {
		return acme.Evidence{}, p
	}
	seen.Agreed = names
	return seen, nil
}

// Permit implements acme.Permission.
func (q *Quorum) Permit(ctx context.Context, c acme.Check) *acme.Problem {
	_, p := q.agree(ctx, func(ctx context.Context) *acme.Problem { return q.Here.Permit(ctx, c) },
		func(ctx context.Context, e Elsewhere) (*acme.Problem, error) { return e.Permit(ctx, c) })
	return p
}

// agree asks everybody at once and returns who agreed, as soon as it is decided.
func (q *Quorum) agree(ctx context.Context, here func(context.Context) *acme.Problem,
	there func(context.Context, Elsewhere) (*acme.Problem, error),
) ([]string, *acme.Problem) {
	var all sync.WaitGroup
	defer all.Wait()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel() // whoever is still asked need not answer any more
	votes := make(chan vote, len(q.There))
	for _, e := range q.There {
		all.Go(func() {
			p, err := there(ctx, e)
			votes <- vote{e.Name(), p, err}
		})
	}
	if p := here(ctx); p != nil {
		return nil, p
	}
	var agreed []string
	var against []vote
	for range q.There {
		v := <-votes
		q.observe(v)
		if v.problem == nil && v.err == nil {
			agreed = append(agreed, v.name)
		} else {
			against = append(against, v)
		}
		if len(agreed) >= q.Need {
			return agreed, nil
		}
		if len(q.There)-len(against) < q.Need {
			break
		}
	}
	return nil, q.refuse(against)
}

func (q *Quorum) observe(v vote) {
	if q.Observe == nil {
		return
	}
	o := Agreed
	switch {
	case v.err != nil:
		o = Silent
	case v.problem != nil:
		o = Disagreed
	}
	q.Observe(v.name, o)
}

// refuse says what kept the quorum from being met: the first problem somebody found, or that too few could be asked, which
// another try may change.
func (q *Quorum) refuse(against []vote) *acme.Problem {
	for _, v := range against {
		if v.problem != nil {
			return acme.NewProblem(v.problem.Type, "seen from here, but not from enough other places (%d of %d must agree): %s", q.Need,
				len(q.There), v.problem.Detail)
		}
	}
	return acme.NewProblem(acme.ServerInternal, "seen from here, but too few other places could be asked (%d of %d must agree): answer a new challenge later",
		q.Need, len(q.There))
}

// errAnswer is what a perspective's own failure looks like from here.
var errAnswer = errors.New("it answered with something else than a finding")
