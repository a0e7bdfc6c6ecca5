package identity

import (
	"fmt"
	"strings"
)

// A Scope is who a thing belongs to: the platform, a tenant, a project of a tenant, or an environment of a project. A
// child's Scope contains nothing of its parent's; a parent contains its children. Scopes compare with ==; the zero
// Scope belongs to nobody.
type Scope struct {
	platform                     bool
	tenant, project, environment string
}

// Platform is the operators' own scope. No tenant's scope contains it and it contains none: rights over tenants come
// from an operator's role, not from containment.
var Platform = Scope{platform: true}

const maxLabel = 63

// ParseScope reads "platform", "t", "t/p" or "t/p/e". A part is opaque to us, but travels in URLs, SPIFFE paths and
// X.500 names: 1 to 63 of a-z, 0-9, hyphen, the first and last no hyphen. "platform" is no tenant.
func ParseScope(s string) (Scope, error) {
	if s == "platform" {
		return Platform, nil
	}
	parts := strings.Split(s, "/")
	if len(parts) > 3 {
		return Scope{}, fmt.Errorf("scope %.100q: want platform, tenant, tenant/project or tenant/project/environment", s)
	}
	for _, p := range parts {
		if err := checkLabel(p); err != nil {
			return Scope{}, fmt.Errorf("scope %.100q: %w", s, err)
		}
	}
	if parts[0] == "platform" {
		return Scope{}, fmt.Errorf("scope %.100q: no tenant may be called platform", s)
	}
	parts = append(parts, "", "")
	return Scope{tenant: parts[0], project: parts[1], environment: parts[2]}, nil
}

func checkLabel(p string) error {
	if p == "" || len(p) > maxLabel || p[0] == '-' || p[len(p)-1] == '-' ||
		strings.Trim(p, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
		return fmt.Errorf("part %.70q: want 1 to 63 of a-z, 0-9 and hyphen, neither beginning nor ending with a hyphen", p)
	}
	return nil
}

// Tenant returns the tenant's name, empty for the platform.
func (s Scope) Tenant() string { return s.tenant }

// Project returns the project's name, empty above a project.
func (s Scope) Project() string { return s.project }

// Environment returns the environment's name, empty above an environment.
func (s Scope) Environment() string { return s.environment }

// IsPlatform reports whether s is the operators' own scope.
func (s Scope) IsPlatform() bool { return s.platform }

// IsZero reports whether s belongs to nobody.
func (s Scope) IsZero() bool { return s == Scope{} }

// Parent returns the scope above s; the platform and tenants have none.
func (s Scope) Parent() (Scope, bool) {
	switch {
	case s.environment != "":
		s.environment = ""
	case s.project != "":
		s.project = ""
	default:
		return Scope{}, false
	}
	return s, true
}

// Contains reports whether c is s or lies below it. Nobody's scope contains nothing.
func (s Scope) Contains(c Scope) bool {
	switch {
	case s.IsZero() || c.IsZero():
		return false
	case s.platform || c.platform:
		return s == c
	}
	return s.tenant == c.tenant &&
		(s.project == "" || s.project == c.project) &&
		(s.environment == "" || s.environment == c.environment)
}

// String returns what ParseScope reads.
func (s Scope) String() string {
	switch {
	case s.platform:
		return "platform"
	case s.environment != "":
		return s.tenant + "/" + s.project + "/" + s.environment
	case s.project != "":
		return s.tenant + "/" + s.project
	}
	return s.tenant
}

// MarshalText implements encoding.TextMarshaler.
func (s Scope) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *Scope) UnmarshalText(b []byte) error {
	v, err := ParseScope(string(b))
	if err == nil {
		*s = v
	}
	return err
}

// path returns s as the beginning of a SPIFFE path.
func (s Scope) path() string {
	if s.platform {
		return "/platform"
	}
	p := "/tenant/" + s.tenant
	if s.project != "" {
		p += "/project/" + s.project
	}
	if s.environment != "" {
		p += "/environment/" + s.environment
	}
	return p
}
