// Package limit has the words for how often something may be done: a Rate, a Charge against it, and the error that says it is
// Exceeded.
//
// What is counted is a limit's name, the scope whose rates hold, and a subject: an account, a name, an address. A rate of
// 100/1h allows 100 at once and, from empty, one more every 36 seconds (GCRA: the generic cell rate algorithm of ITU-T
// I.371). The package does no I/O and counts nothing: limit/store does, across replicas. Values are safe for concurrent use.
package limit

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"codeberg.org/dataverket/segl/internal/identity"
)

// A Name names a limit, as clients, operators and documentation do.
type Name string

// A Rate is how much: Count at once, and as many again in Per. The zero Rate is no limit.
type Rate struct {
	Count int
	Per   time.Duration
}

// Bounds of rates: a step of the algorithm is Per/Count, in whole microseconds.
const (
	maxCount  = 1_000_000_000
	maxPer    = 366 * 24 * time.Hour
	unlimited = "unlimited"
)

// ParseRate reads a rate such as 100/1h or 5/10s, or "unlimited".
func ParseRate(s string) (Rate, error) {
	if s == unlimited {
		return Rate{}, nil
	}
	refuse := fmt.Errorf(`rate %.40q: want a number and a time, as in 100/1h (at most %d in %s, not above one a microsecond), or %q`, s, maxCount, maxPer, unlimited)
	left, right, ok := strings.Cut(s, "/")
	n, err := strconv.ParseUint(left, 10, 31)
	if err != nil || !ok || n == 0 || n > maxCount {
		return Rate{}, refuse
	}
	per, err := time.ParseDuration(right)
	if err != nil || per <= 0 || per > maxPer || per/time.Duration(n) < time.Microsecond {
		return Rate{}, refuse
	}
	return Rate{int(n), per}, nil
}

// String returns what ParseRate reads.
func (r Rate) String() string {
	if r.Unlimited() {
		return unlimited
	}
	per := r.Per.String()
	for _, zero := range []string{"m0s", "h0m"} { // 1h0m0s is 1h
		if cut, ok := strings.CutSuffix(per, zero); ok {
			per = cut + zero[:1]
		}
	}
	return strconv.Itoa(r.Count) + "/" + per
}

// Unlimited reports whether r bounds nothing.
func (r Rate) Unlimited() bool { return r.Count <= 0 }

// Step is how long one use takes to be forgotten.
func (r Rate) Step() time.Duration { return r.Per / time.Duration(max(1, r.Count)) }

// MarshalText implements encoding.TextMarshaler.
func (r Rate) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (r *Rate) UnmarshalText(b []byte) error {
	v, err := ParseRate(string(b))
	if err == nil {
		*r = v
	}
	return err
}

// A Definition is a limit there is.
type Definition struct {
	Name  Name
	Rate  Rate   // where no scope says otherwise
	About string // what is counted, one line
}

// A Charge is one use of something limited.
type Charge struct {
	Limit   Name
	Scope   identity.Scope // whose rate holds
	Subject string         // what is counted
	Peek    bool           // only look whether another use would be allowed
}

// Exceeded says that a use is not allowed now. Nothing was done.
type Exceeded struct {
	Charge
	Rate Rate
	Wait time.Duration // after which it may be
}

// Error implements error.
func (e *Exceeded) Error() string {
	return fmt.Sprintf("limit %s (%s) is reached for %.120s: ask again in %s", e.Limit, e.Rate, e.Subject, e.Wait.Round(time.Second))
}

// RetryAfter says when asking again makes sense.
func (e *Exceeded) RetryAfter() time.Duration { return e.Wait }

// The decisions that a door makes about what operators ask.
var (
	ErrUnknown  = errors.New("there is no such limit")
	ErrNotFound = errors.New("there is nothing of that")
)

// A Standing is a limit as it is in a scope.
type Standing struct {
	Definition
	Now  Rate
	From identity.Scope // whose override that is; zero: nobody's
}

// A Usage is what one subject used of a limit and is not forgotten yet.
type Usage struct {
	Limit   Name
	Subject string
	Used    int // of Burst, those that replicas hold in advance counted in
	Burst   int
	Clear   time.Time // when all is forgotten, if no more is used
}

// A Query selects usage: of one limit, or of all; of subjects that begin with Subject; from so many uses in a hundred on.
type Query struct {
	Limit   Name
	Subject string
	Percent int
	Most    int
}
