// Package identity names who acts and where things belong: scopes, SPIFFE IDs, callers.
//
// It decides nothing; internal/policy and the domains do. Parse functions return a valid value or an error that says what
// would be taken. Identifiers follow the SPIFFE-ID standard §2; the path is
// /tenant/<t>[/project/<p>[/environment/<e>]]/<workload>, or /platform/<workload> for the operators' side. Values are
// comparable and safe for concurrent use.
package identity

import (
	"fmt"
	"strings"
)

// An ID is a SPIFFE ID of this service's form. The zero ID is nobody.
type ID struct {
	domain   string
	scope    Scope
	workload string
}

// NewID returns the identity of workload in scope.
func NewID(domain string, scope Scope, workload string) (ID, error) {
	if err := checkDomain(domain); err != nil {
		return ID{}, err
	}
	if scope.IsZero() {
		return ID{}, fmt.Errorf("identity: belongs to no scope")
	}
	if err := CheckWorkload(workload); err != nil {
		return ID{}, err
	}
	return ID{domain, scope, workload}, nil
}

// CheckWorkload refuses what cannot be the last part of an identity: 1 to 63 of a-z, 0-9, hyphen, dot, underscore, at
// least one no dot. Words that begin a deeper path are reserved.
func CheckWorkload(w string) error {
	if w == "" || len(w) > maxLabel || strings.Trim(w, "abcdefghijklmnopqrstuvwxyz0123456789-._") != "" || strings.Trim(w, ".") == "" {
		return fmt.Errorf("workload %.70q: want 1 to 63 of a-z, 0-9, hyphen, dot and underscore", w)
	}
	if w == "project" || w == "environment" || w == "tenant" || w == "platform" {
		return fmt.Errorf("workload %q: reserved in SPIFFE paths; choose another name", w)
	}
	return nil
}

func checkDomain(d string) error {
	if d == "" || len(d) > 255 || strings.Trim(d, "abcdefghijklmnopqrstuvwxyz0123456789-._") != "" {
		return fmt.Errorf("trust domain %.80q: want lower-case letters, digits, hyphen, dot and underscore (SPIFFE-ID §2.1)", d)
	}
	return nil
}

// ParseID reads a SPIFFE ID of this service's form.
func ParseID(s string) (ID, error) {
	refuse := func() (ID, error) {
		return ID{}, fmt.Errorf("identity %.120q: want spiffe://<trust-domain>/tenant/<t>[/project/<p>[/environment/<e>]]/<workload> "+
			"or spiffe://<trust-domain>/platform/<workload>", s)
	}
	rest, ok := strings.CutPrefix(s, "spiffe://")
	domain, path, ok2 := strings.Cut(rest, "/")
	if !ok || !ok2 || len(s) > 2048 {
		return refuse()
	}
	scope, workload, ok := splitPath(strings.Split(path, "/"))
	if !ok {
		return refuse()
	}
	id, err := NewID(domain, scope, workload)
	if err != nil || id.String() != s {
		return refuse()
	}
	return id, nil
}

func splitPath(p []string) (Scope, string, bool) {
	if len(p) == 2 && p[0] == "platform" {
		return Platform, p[1], true
	}
	words := []string{"tenant", "project", "environment"}
	var labels []string
	for len(p) > 1 && len(labels) < 3 && p[0] == words[len(labels)] {
		labels, p = append(labels, p[1]), p[2:]
	}
	if len(p) != 1 || len(labels) == 0 {
		return Scope{}, "", false
	}
	s, err := ParseScope(strings.Join(labels, "/"))
	return s, p[0], err == nil && !s.IsPlatform()
}

// Scope returns where the identity belongs.
func (id ID) Scope() Scope { return id.scope }

// Workload returns the last part of the identity.
func (id ID) Workload() string { return id.workload }

// Domain returns the trust domain.
func (id ID) Domain() string { return id.domain }

// IsZero reports whether id is nobody.
func (id ID) IsZero() bool { return id == ID{} }

// String returns the SPIFFE ID.
func (id ID) String() string {
	if id.IsZero() {
		return ""
	}
	return "spiffe://" + id.domain + id.scope.path() + "/" + id.workload
}
