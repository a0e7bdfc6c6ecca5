package api

import (
	"strings"

	"codeberg.org/dataverket/segl/internal/identity"
)

// ScopeOf returns the scope whose directory, or whatever stands below it, a path is of: the one in which its accounts are.
// False where it is of none.
func ScopeOf(path string) (identity.Scope, bool) {
	rest, ok := strings.CutPrefix(path, "/acme/")
	if !ok {
		return identity.Scope{}, false
	}
	if of, isBelow := strings.CutPrefix(rest, "-/"); isBelow {
		text, _, _ := strings.Cut(of, "/")
		s, err := identity.ParseScope(strings.ReplaceAll(text, ".", "/"))
		return s, err == nil
	}
	text, ok := strings.CutSuffix(rest, "/directory")
	if !ok {
		return identity.Scope{}, false
	}
	s, err := identity.ParseScope(text)
	return s, err == nil
}
