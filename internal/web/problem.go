package web

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"strconv"
	"time"

	"codeberg.org/dataverket/segl/internal/policy"
)

// ProblemPrefix begins the type of every problem that is not another specification's.
const ProblemPrefix = "urn:segl:problem:"

// A Problem is how an error looks outside (RFC 9457 §3.1), with the rule that decided and the remedy as members of ours
// (§3.2).
type Problem struct {
	Type     string `json:"type"`               // "A URI reference that identifies the problem type"
	Title    string `json:"title"`              // "a short, human-readable summary of the problem type": one for each type
	Status   int    `json:"status"`             // the status of the answer
	Detail   string `json:"detail,omitempty"`   // "specific to this occurrence of the problem"
	Instance string `json:"instance,omitempty"` // urn:segl:request:<id>: the same id is in the log and in the facts
	Rule     string `json:"rule,omitempty"`     // which rule decided
	Remedy   string `json:"remedy,omitempty"`   // what to do about it

	after int // seconds, for Retry-After
}

// A Fault is a refusal that a door makes itself. All of it is shown but the cause, which the log gets.
type Fault struct {
	Status                            int
	Name, Title, Detail, Rule, Remedy string
	Cause                             error
}

func (f *Fault) Error() string {
	if f.Cause != nil {
		return f.Detail + ": " + f.Cause.Error()
	}
	return f.Detail
}

func (f *Fault) Unwrap() error { return f.Cause }

// A Table says how the errors of a door's domain look outside. The first row that matches decides.
type Table []Row

// A Row is one decision of a domain and its problem.
type Row struct {
	Err    error            // matched by errors.Is, unless Match is there
	Match  func(error) bool // for kinds of errors that are no sentinel
	Status int
	Name   string // the last part of the type
	Title  string
	Remedy string // what to do about it, where the error does not say
	After  int    // seconds after which asking again makes sense, where the error does not say; 0 is none
}

func (r *Row) matches(err error) bool {
	if r.Match != nil {
		return r.Match(err)
	}
	return errors.Is(err, r.Err)
}

// Explain returns the problem that err is, and reports whether anybody expected it: what is not a Fault, not in the
// table, no policy.Refusal and no passing of time is a 500 that says nothing.
//
// What a row of 500 and above matched is shown by its title and remedy only: the cause is ours to read in the log.
func (t Table) Explain(err error) (p Problem, expected bool) {
	if f, ok := errors.AsType[*Fault](err); ok {
		return Problem{ProblemPrefix + f.Name, f.Title, f.Status, f.Detail, "", f.Rule, f.Remedy, 0}, true
	}
	for i := range t {
		if row := &t[i]; row.matches(err) {
			p := Problem{Type: ProblemPrefix + row.Name, Title: row.Title, Status: row.Status, Remedy: row.Remedy, after: row.After}
			if row.Status < http.StatusInternalServerError {
				p.Detail = err.Error()
			}
			return p, true
		}
	}
	if r, ok := errors.AsType[*policy.Refusal](err); ok {
		return Problem{
			Type: ProblemPrefix + "policy-refused", Title: "A rule forbids this", Status: http.StatusForbidden,
			Detail: r.Error(), Rule: r.Rule, Remedy: r.Remedy,
		}, true
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return Problem{
			Type: ProblemPrefix + "too-slow", Title: "The answer was not ready in time", Status: http.StatusServiceUnavailable,
			Remedy: "ask again with the same Idempotency-Key: what was begun is not begun twice",
		}, true
	}
	return Problem{
		Type: ProblemPrefix + "internal", Title: "Something went wrong here", Status: http.StatusInternalServerError,
		Remedy: "tell the operators the instance; the log has the cause",
	}, false
}

// RetryAfter returns how long to wait before asking again, as err says by a method RetryAfter() time.Duration, in whole
// seconds and at least one (RFC 9110 §10.2.3).
func RetryAfter(err error) (seconds int, ok bool) {
	var carrier interface {
		error
		RetryAfter() time.Duration
	}
	if !errors.As(err, &carrier) {
		return 0, false
	}
	return max(1, int(math.Ceil(carrier.RetryAfter().Seconds()))), true
}

// WriteProblem answers with p, naming the request. Doors whose problems have types or members of their own use it from
// a Raw handler: body is p, or a struct that embeds it.
func WriteProblem(w http.ResponseWriter, status int, body any) error {
	b, err := json.Marshal(body)
	if err != nil {
		return err
	}
	h := w.Header()
	h["Content-Type"] = []string{"application/problem+json"}
	h["Cache-Control"] = noStore
	h["Content-Length"] = []string{strconv.Itoa(len(b))}
	w.WriteHeader(status)
	_, err = w.Write(b)
	return err
}

// InstanceOf returns the instance of a problem about the request named id.
func InstanceOf(id string) string { return "urn:segl:request:" + id }

var noStore = []string{"no-store"}
