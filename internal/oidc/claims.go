package oidc

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
)

// read fills b from verified claims.
func (p *Provider) read(claims map[string]json.RawMessage, b *Bearer) (err error) {
	if b.Subject == "" || len(b.Subject) > maxClaim || strings.ContainsFunc(b.Subject, unicode.IsControl) {
		return fmt.Errorf("it names no subject of at most %d octets (RFC 9068 §2.2)", maxClaim)
	}
	if len(claims) > maxClaims {
		return fmt.Errorf("it has %d claims, at most %d are read", len(claims), maxClaims)
	}
	if b.Tenant, err = text(claims, p.cfg.TenantClaim); err != nil {
		return err
	}
	if b.ID, err = text(claims, "jti"); err != nil {
		return err
	}
	if b.Roles, err = roles(claims[p.cfg.RolesClaim]); err != nil {
		return fmt.Errorf("claim %s: %w", p.cfg.RolesClaim, err)
	}
	if b.Act, b.ActIssuer, err = actor(claims["act"]); err != nil {
		return err
	}
	if b.Act != "" && b.ActIssuer == "" {
		b.ActIssuer = b.Issuer
	}
	switch {
	case claims["events"] != nil:
		b.Kind = Logout
	case claims["nonce"] != nil || claims["at_hash"] != nil:
		b.Kind = Login
	case claims["cnf"] != nil:
		b.Kind = Bound
	}
	b.Claims = p.words(claims, b)
	return nil
}

// maxClaims is how many a token may have.
const maxClaims = 128

// words returns the claims that a rule can be about.
func (p *Provider) words(claims map[string]json.RawMessage, b *Bearer) map[string][]string {
	out := make(map[string][]string, len(claims))
	for name, raw := range claims {
		if name == p.cfg.RolesClaim {
			continue // roles are below, with who gave them
		}
		if list := listed(raw); len(list) > 0 && len(list) <= maxRoles {
			out[name] = list
		}
	}
	// OpenID Connect Core 1.0 §5.7: whoever owns an address is known only where the provider verified it.
	if string(claims["email_verified"]) != "true" {
		delete(out, "email")
	}
	delete(out, "role")
	delete(out, "tenant")
	for _, r := range b.Roles {
		if r.Organizations == nil {
			out["role"] = append(out["role"], r.Name)
		}
		for _, organization := range r.Organizations { // another organization's grant must not pass for ours
			out["role"] = append(out["role"], r.Name+"@"+organization)
		}
	}
	if b.Tenant != "" {
		out["tenant"] = []string{b.Tenant}
	}
	return out
}

// listed reads text, or a list of it.
func listed(raw json.RawMessage) []string {
	var one string
	var list []string
	if json.Unmarshal(raw, &one) == nil {
		list = []string{one}
	} else if json.Unmarshal(raw, &list) != nil {
		return nil
	}
	return slices.DeleteFunc(list, func(s string) bool { return s == "" || len(s) > maxClaim })
}

// text reads a claim that is a string, where there is one.
func text(claims map[string]json.RawMessage, name string) (s string, err error) {
	raw, ok := claims[name]
	if !ok {
		return "", nil
	}
	if err := json.Unmarshal(raw, &s); err != nil || len(s) > maxClaim {
		return "", fmt.Errorf("claim %s: want a string of at most %d octets", name, maxClaim)
	}
	return s, nil
}

// actor reads who acts for the subject: the outermost one, which is who sent the token. Those within acted before, and count for
// nothing but history (RFC 8693 §4.1).
func actor(raw json.RawMessage) (subject, issuer string, err error) {
	if raw == nil {
		return "", "", nil
	}
	var act struct {
		Subject string `json:"sub"`
		Issuer  string `json:"iss"`
	}
	if err := json.Unmarshal(raw, &act); err != nil || act.Subject == "" || len(act.Subject) > maxClaim || len(act.Issuer) > maxClaim {
		return "", "", fmt.Errorf("claim act: want an object that names a subject of at most %d octets (RFC 8693 §4.1)", maxClaim)
	}
	return act.Subject, act.Issuer, nil
}

// roles reads them in any of the forms that providers write.
func roles(raw json.RawMessage) (list []Role, err error) {
	var names []string
	var words string
	var granted map[string]map[string]string
	switch {
	case raw == nil:
		return nil, nil
	case json.Unmarshal(raw, &words) == nil:
		names = strings.Fields(words)
	case json.Unmarshal(raw, &names) == nil:
	case json.Unmarshal(raw, &granted) == nil:
		for name, by := range granted {
			r := Role{Name: name, Organizations: []string{}}
			for organization := range by {
				r.Organizations = append(r.Organizations, organization)
			}
			slices.Sort(r.Organizations)
			list = append(list, r)
		}
		slices.SortFunc(list, func(a, b Role) int { return strings.Compare(a.Name, b.Name) })
	default:
		return nil, errors.New("want a list, a string of words, or an object whose keys are roles")
	}
	for _, name := range names {
		list = append(list, Role{Name: name})
	}
	if len(list) > maxRoles || slices.ContainsFunc(list, func(r Role) bool { return r.Name == "" || len(r.Name) > maxClaim }) {
		return nil, fmt.Errorf("want at most %d roles with names of at most %d octets", maxRoles, maxClaim)
	}
	return list, nil
}
