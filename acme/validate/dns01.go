package validate

import (
	"context"
	"crypto/subtle"
	"strings"

	"codeberg.org/dataverket/segl/acme"
)

// dns01 looks for the digest of the key authorization in the zone (RFC 8555 §8.4). A wildcard is proved at the name below
// which it stands (RFC 8555 §7.1.3).
func (v *Validator) dns01(ctx context.Context, c acme.Check) (acme.Evidence, *acme.Problem) {
	owner := "_acme-challenge." + strings.TrimPrefix(c.Name.Value(), "*.")
	records, server, p := v.resolver.texts(ctx, owner)
	if p != nil {
		return acme.Evidence{}, p
	}
	want := []byte(c.Record())
	for _, r := range records {
		if subtle.ConstantTimeCompare([]byte(r), want) == 1 {
			return acme.Evidence{Remote: server}, nil
		}
	}
	if len(records) == 0 {
		return acme.Evidence{}, refuse(acme.Unauthorized, "%s has no TXT record: add one with the value %s (RFC 8555 §8.4)", owner, want)
	}
	return acme.Evidence{}, refuse(acme.IncorrectResponse, "none of the %d TXT records of %s is %s; one is %q (RFC 8555 §8.4)", len(records),
		owner, want, printable(records[0]))
}
