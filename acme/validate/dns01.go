package validate

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"slices"
	"strconv"
	"strings"
	"time"

	"codeberg.org/dataverket/segl/acme"
)

// dns01 looks for the digest of the key authorization in the zone (RFC 8555 §8.4), at the name with prefix before it. A
// wildcard is proved at the name below which it stands (RFC 8555 §7.1.3).
func (r *reach) dns01(ctx context.Context, c acme.Check, prefix string) (acme.Evidence, *acme.Problem) {
	owner := prefix + strings.TrimPrefix(c.Name.Value(), "*.")
	records, server, p := r.resolver.texts(ctx, owner)
	if p != nil {
		return acme.Evidence{}, p
	}
	want := []byte(c.Record())
	for _, t := range records {
		if subtle.ConstantTimeCompare([]byte(t), want) == 1 {
			return acme.Evidence{Remote: server}, nil
		}
	}
	if len(records) == 0 {
		return acme.Evidence{}, refuse(acme.Unauthorized, "%s has no TXT record: add one with the value %s (RFC 8555 §8.4)", owner, want)
	}
	return acme.Evidence{}, refuse(acme.IncorrectResponse, "none of the %d TXT records of %s is %s; one is %q (RFC 8555 §8.4)", len(records),
		owner, want, printable(records[0]))
}

// dnsAccount01 is dns-01 under a label of the account's own (draft-ietf-acme-dns-account-label-02), so that several accounts
// prove one name without meeting:
//
//	"_" || base32(SHA-256(<ACCOUNT_RESOURCE_URL>)[0:10]) || "._acme-challenge"
func (r *reach) dnsAccount01(ctx context.Context, c acme.Check) (acme.Evidence, *acme.Problem) {
	if c.Account == "" {
		return acme.Evidence{}, refuse(acme.Malformed, "dns-account-01 needs an account's URL, and none is known here")
	}
	sum := sha256.Sum256([]byte(c.Account))
	label := strings.ToLower(base32.StdEncoding.EncodeToString(sum[:10]))
	return r.dns01(ctx, c, "_"+label+"._acme-challenge.")
}

// dnsPersist01 looks for a record that lets the account have certificates for as long as it stands
// (draft-ietf-acme-dns-persist-01). It has the form of a CAA issue value. Stricter than the draft: a record proves the name
// it stands at and, with policy=wildcard, the wildcard below it, but no subdomain.
func (v *Validator) dnsPersist01(ctx context.Context, c acme.Check) (acme.Evidence, *acme.Problem) {
	owner := "_validation-persist." + strings.TrimPrefix(c.Name.Value(), "*.")
	if c.Account == "" || len(v.caa.Identities) == 0 {
		return acme.Evidence{}, refuse(acme.Malformed, "dns-persist-01 needs an account's URL and an issuer domain name, and one is not known here")
	}
	records, server, p := v.reach(c.Scope).resolver.texts(ctx, owner)
	if p != nil {
		return acme.Evidence{}, p
	}
	why := "it has no TXT record"
	for _, t := range records {
		if why = v.persists(t, c); why == "" {
			return acme.Evidence{Remote: server}, nil
		}
	}
	return acme.Evidence{}, refuse(acme.Unauthorized, "%s does not let the account have %s: %s; add a TXT record %q (draft-ietf-acme-dns-persist-01)",
		owner, c.Name.Value(), why, wantPersist(v.caa.Identities[0], c))
}

func wantPersist(issuer string, c acme.Check) string {
	s := issuer + "; accounturi=" + c.Account
	if c.Name.Wildcard() {
		s += "; policy=wildcard"
	}
	return s
}

// persists returns why a record does not prove c, or nothing.
func (v *Validator) persists(record string, c acme.Check) string {
	r, ok := parseIssue(record)
	if !ok {
		return "a record is not an issue-value (RFC 8659 §4.2)"
	}
	uri, uris := r.only("accounturi")
	policy, policies := r.only("policy")
	until, untils := r.only("persistuntil")
	switch {
	case !slices.Contains(v.caa.Identities, r.issuer):
		return "a record names another issuer"
	case uris > 1 || policies > 1 || untils > 1:
		return "a record has a parameter twice"
	case uri != c.Account: // mandatory, and compared as a string
		return "a record names no account, or another one"
	case c.Name.Wildcard() && !strings.EqualFold(policy, "wildcard"):
		return "a record lacks policy=wildcard"
	case untils == 1 && v.expired(until):
		return "a record's persistUntil has passed, or is not a number of seconds"
	}
	return ""
}

func (v *Validator) expired(until string) bool {
	seconds, err := strconv.ParseUint(until, 10, 62)
	return err != nil || v.now == nil || !v.now().Before(time.Unix(int64(seconds), 0)) //nolint:gosec // 62 bits fit
}
