package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"strings"

	"codeberg.org/dataverket/segl/cmd/segl/client"
	"codeberg.org/dataverket/segl/cmd/segl/keypair"
	"codeberg.org/dataverket/segl/internal/policy"
	"codeberg.org/dataverket/segl/internal/postgres"
)

// Exit codes. Scripts depend on them.
const (
	exitDone      = 0
	exitFailed    = 1
	exitMisuse    = 2 // wrong use
	exitNotFound  = 3
	exitDenied    = 4
	exitConflict  = 5 // conflict or precondition
	exitTemporary = 6 // unreachable or temporary
	exitFindings  = 7 // a check found problems
)

// A failure is an error with the exit code and the hint that belong to it.
type failure struct {
	code int
	err  error
	hint string
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

func (f *failure) hinted(format string, args ...any) *failure {
	f.hint = fmt.Sprintf(format, args...)
	return f
}

func failing(code int, format string, args ...any) *failure {
	return &failure{code: code, err: fmt.Errorf(format, args...)}
}

// misuse is a command line that means nothing.
func misuse(format string, args ...any) *failure { return failing(exitMisuse, format, args...) }

// explain finds the exit code and the hint of an error.
func explain(err error) (code int, hint string) {
	if f, ok := errors.AsType[*failure](err); ok {
		return f.code, f.hint
	}
	if p, ok := errors.AsType[*client.Problem](err); ok {
		return problemCode(p.Status), problemHint(p)
	}
	if u, ok := errors.AsType[*client.Unreachable](err); ok {
		return exitTemporary, u.Hint()
	}
	if r, ok := errors.AsType[*policy.Refusal](err); ok {
		return exitDenied, r.Remedy
	}
	switch {
	case errors.Is(err, keypair.ErrForeign):
		return exitConflict, "choose another --out, or say --force to replace it"
	case errors.Is(err, fs.ErrNotExist):
		return exitNotFound, ""
	case errors.Is(err, fs.ErrPermission):
		return exitDenied, ""
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return exitTemporary, ""
	case isCobraMisuse(err):
		return exitMisuse, "see segl --help"
	}
	return exitFailed, ""
}

func problemCode(status int) int {
	switch status {
	case http.StatusNotFound, http.StatusGone:
		return exitNotFound
	case http.StatusUnauthorized, http.StatusForbidden:
		return exitDenied
	case http.StatusConflict, http.StatusPreconditionFailed, http.StatusPreconditionRequired:
		return exitConflict
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return exitTemporary
	}
	return exitFailed
}

// ofDatabase marks an error of work that needs the database: it may be away only for a while.
func ofDatabase(err error) error {
	if !postgres.Unavailable(err) {
		return err
	}
	return (&failure{code: exitTemporary, err: err}).hinted("see that the database runs, and that its URL leads to it")
}

// problemHint is the remedy, and what to quote to an operator where only the log has the cause.
func problemHint(p *client.Problem) string {
	hint := p.Remedy
	if p.Status >= http.StatusInternalServerError && p.Instance != "" {
		hint = strings.TrimPrefix(hint+"; "+p.Instance, "; ")
	}
	return hint
}

// isCobraMisuse recognizes what the flag library says by itself.
func isCobraMisuse(err error) bool {
	for _, begin := range []string{"unknown command", "unknown flag", "required flag", "if any flags in the group", "at least one of the flags"} {
		if strings.HasPrefix(err.Error(), begin) {
			return true
		}
	}
	return false
}

// lower makes others' sentences begin as ours do; abbreviations stay.
func lower(s string) string {
	if len(s) > 1 && s[0] >= 'A' && s[0] <= 'Z' && (s[1] == ' ' || s[1] >= 'a') {
		return strings.ToLower(s[:1]) + s[1:]
	}
	return s
}
