package acme

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
)

// An Attester judges a device's statement about itself and its key, which is the check's Payload (device-attest-01). The
// Evidence of a statement that counts has its format and the attested key. Implementations ask nobody and are safe for
// concurrent use.
type Attester interface {
	Attest(c Check) (Evidence, *Problem)
}

// A device is ordered by what its maker calls it, and gets the identity spiffe://…/device-<identifier> of the order's scope,
// in small letters: draft-ietf-acme-device-attest-09 §3.2 lets certificates leave the identifier itself out, and what our
// doors know is identities. The prefix keeps makers from naming anybody's workload.

// deviceProfile is what an order for a device gets.
const deviceProfile = "client"

// isDevice reports whether names are a device's order.
func isDevice(names []cert.Name) bool {
	return slices.ContainsFunc(names, func(n cert.Name) bool { return n.Kind() == cert.Device })
}

// deviceOrder returns the profile of an order for a device, which is ordered alone.
func (s *Server) deviceOrder(scope identity.Scope, names []cert.Name, asked string) (string, error) {
	if !s.Offers(DeviceAttest01) {
		return "", problem(UnsupportedIdentifier, "identifier type permanent-identifier is not taken here: order dns or ip (RFC 8555 §9.7.7, RFC 8738 §3)")
	}
	if len(names) != 1 {
		return "", problem(RejectedIdentifier, "a device is ordered alone: its certificate has its identity and no other name")
	}
	p, err := s.Issuer.Profile(scope, asked)
	switch {
	case asked == "":
		return deviceProfile, nil
	case err != nil || p.Identity != ca.Required || p.Hosts == ca.Required || p.Role:
		return "", problem(InvalidProfile, "profile %.40q: a device gets %q; leave it out", asked, deviceProfile)
	}
	return asked, nil
}

// certified returns the names that o's certificate is to have.
func (s *Server) certified(o Order) ([]cert.Name, error) {
	out := slices.Clone(o.Names)
	for i, n := range out {
		if n.Kind() != cert.Device {
			continue
		}
		id, err := identity.NewID(s.TrustDomain, o.Scope, cert.DeviceWorkload(n))
		if err != nil {
			return nil, fmt.Errorf("naming device %s: %w", n.Value(), err)
		}
		if out[i], err = cert.ParseURI(id.String()); err != nil {
			return nil, fmt.Errorf("naming device %s: %w", n.Value(), err)
		}
	}
	return out, nil
}

// attested refuses another key than the one that was attested: what the statement says of one key says nothing of another.
func (o Order) attested(key cert.KeyID) *Problem {
	for _, a := range o.Authorizations {
		if a.Name.Kind() != cert.Device {
			continue
		}
		if had, ok := attestedKey(a.Validation); !ok || had != key {
			return problem(BadCSR, "the key is not the one that was attested: make the request with that one (draft-ietf-acme-device-attest-09 §5)")
		}
	}
	return nil
}

// attestedBy stands between a statement's format and the attested key, in recorded evidence.
const attestedBy = " statement of key "

func (e Evidence) statement() string { return e.Statement + attestedBy + hex.EncodeToString(e.Key[:]) }

func attestedKey(v *Validation) (key cert.KeyID, ok bool) {
	if v == nil || v.Problem != nil {
		return key, false
	}
	_, text, ok := strings.Cut(v.Evidence, attestedBy)
	raw, err := hex.DecodeString(text)
	if !ok || err != nil || len(raw) != len(key) {
		return key, false
	}
	return cert.KeyID(raw), true
}

// deviceNames refuses a request for a device that names anything but the device, which it need not name.
func (s *Server) deviceNames(o Order, req cert.Request) error {
	names, err := s.certified(o)
	if err != nil {
		return err
	}
	for _, n := range req.Names {
		if !slices.Contains(names, n) {
			return problem(BadCSR, "it has %s, which was not ordered (RFC 8555 §7.4)", n)
		}
	}
	if cn := req.CommonName; cn != "" && cn != o.Names[0].Value() {
		return problem(BadCSR, "its common name is not the device's identifier: leave it out (RFC 8555 §7.4)")
	}
	return nil
}
