package access

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"unicode/utf8"

	"codeberg.org/dataverket/segl/internal/identity"
)

// Bounds of what a subject is made of.
const (
	maxSubject = 2048
	maxClaim   = 256
)

// A Subject is whom a binding is about: an identity or a pattern of identities, or a claim. The zero Subject is nobody.
//
// A pattern is a SPIFFE ID whose workload is * (any directly in that scope) or ** (any in that scope and below). A claim is
// only as good as who makes it, so it names its issuer, and matches that issuer's word alone, octet by octet.
type Subject struct {
	Identity string

	Issuer string
	Claim  string
	Value  string
}

// ParseIdentity reads an identity or a pattern of them.
func ParseIdentity(s string) (Subject, error) {
	at := strings.LastIndexByte(s, '/')
	if at < 0 || len(s) > maxSubject {
		return Subject{}, fmt.Errorf("identity %.120q: want a SPIFFE ID, its last part * or ** for any workload there, or there and below", s)
	}
	if one := s[at+1:]; one != "*" && one != "**" {
		_, err := identity.ParseID(s)
		return Subject{Identity: s}.orNobody(err)
	}
	_, err := identity.ParseID(s[:at] + "/any")
	return Subject{Identity: s}.orNobody(err)
}

func (s Subject) orNobody(err error) (Subject, error) {
	if err != nil {
		return Subject{}, err
	}
	return s, nil
}

// NewClaim returns whom issuer says claim of with value.
func NewClaim(issuer, claim, value string) (Subject, error) {
	u, err := url.Parse(issuer)
	switch {
	case err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || len(issuer) > maxSubject || u.RawQuery != "" || u.Fragment != "":
		return Subject{}, fmt.Errorf("issuer %.120q: want its address, as its tokens spell it (OpenID Connect Core §2, iss)", issuer)
	case claim == "" || value == "" || len(claim) > maxClaim || len(value) > maxClaim:
		return Subject{}, fmt.Errorf("claim: want a name and a value, each of at most %d octets", maxClaim)
	case !utf8.ValidString(claim+value) || strings.ContainsAny(claim+value, "\x00\r\n"):
		return Subject{}, errors.New("claim: want text without line breaks")
	}
	return Subject{Issuer: issuer, Claim: claim, Value: value}, nil
}

// String spells s for people and facts.
func (s Subject) String() string {
	if s.Claim != "" {
		return fmt.Sprintf("claim %s=%s of %s", s.Claim, s.Value, s.Issuer)
	}
	return s.Identity
}

// IsZero reports whether s is nobody.
func (s Subject) IsZero() bool { return s == Subject{} }

// check reads s again: it may have been made by hand, or have been stored by somebody else.
func (s Subject) check() error {
	if s.Identity != "" && s.Issuer+s.Claim+s.Value != "" {
		return errors.New("subject: want an identity or a claim, not both")
	}
	var err error
	if s.Identity != "" {
		_, err = ParseIdentity(s.Identity)
	} else {
		_, err = NewClaim(s.Issuer, s.Claim, s.Value)
	}
	return err
}

// pattern reports whether s is many identities, of which scope, and whether of those below too.
func (s Subject) pattern() (domain string, at identity.Scope, below, ok bool) {
	prefix, last := s.Identity, ""
	if i := strings.LastIndexByte(s.Identity, '/'); i >= 0 {
		prefix, last = s.Identity[:i], s.Identity[i+1:]
	}
	if last != "*" && last != "**" {
		return "", identity.Scope{}, false, false
	}
	id, err := identity.ParseID(prefix + "/any")
	return id.Domain(), id.Scope(), last == "**", err == nil
}

// ofThePlatform reports whether s can only be somebody of the platform, or somebody whom an issuer vouches for.
func (s Subject) ofThePlatform() bool {
	if s.Claim != "" {
		return true
	}
	if _, at, _, ok := s.pattern(); ok {
		return at.IsPlatform()
	}
	id, err := identity.ParseID(s.Identity)
	return err == nil && id.Scope().IsPlatform()
}
