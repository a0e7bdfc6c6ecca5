package cert

import "fmt"

// A Reason is why a certificate was revoked: a CRLReason (RFC 5280 §5.3.1).
type Reason uint8

// The reasons of RFC 5280 §5.3.1, with its numbers.
const (
	Unspecified          Reason = 0
	KeyCompromise        Reason = 1
	CACompromise         Reason = 2
	AffiliationChanged   Reason = 3
	Superseded           Reason = 4
	CessationOfOperation Reason = 5
	certificateHold      Reason = 6 // refused: what is revoked here stays revoked
	removeFromCRL        Reason = 8 // refused: only delta CRLs use it
	PrivilegeWithdrawn   Reason = 9
	AACompromise         Reason = 10
)

var reasonNames = map[Reason]string{
	Unspecified: "unspecified", KeyCompromise: "keyCompromise", CACompromise: "cACompromise",
	AffiliationChanged: "affiliationChanged", Superseded: "superseded", CessationOfOperation: "cessationOfOperation",
	certificateHold: "certificateHold", removeFromCRL: "removeFromCRL", PrivilegeWithdrawn: "privilegeWithdrawn",
	AACompromise: "aACompromise",
}

// ParseReason reads a reason by its name. certificateHold and removeFromCRL are refused: nothing here is un-revoked.
func ParseReason(s string) (Reason, error) {
	for r, n := range reasonNames {
		if n == s {
			return r.check()
		}
	}
	return 0, fmt.Errorf("reason %.40q: want one of unspecified, keyCompromise, affiliationChanged, superseded, "+
		"cessationOfOperation, privilegeWithdrawn (RFC 5280 §5.3.1)", s)
}

// ReasonFromCode reads a reason by its number, as RFC 8555 §7.6 carries it.
func ReasonFromCode(n int) (Reason, error) {
	if n < 0 || n > 10 || reasonNames[Reason(n)] == "" {
		return 0, fmt.Errorf("reason code %d: want one of 0, 1, 3, 4, 5, 9 (RFC 5280 §5.3.1)", n)
	}
	return Reason(n).check()
}

func (r Reason) check() (Reason, error) {
	if r == certificateHold || r == removeFromCRL {
		return 0, fmt.Errorf("reason %s: a revocation is final here; use superseded or cessationOfOperation", r)
	}
	return r, nil
}

// Subscriber reports whether the holder of a certificate may give r as the reason: what speaks of an authority is for
// operators only.
func (r Reason) Subscriber() bool {
	switch r {
	case Unspecified, KeyCompromise, AffiliationChanged, Superseded, CessationOfOperation:
		return true
	}
	return false
}

// String returns the name of r.
func (r Reason) String() string { return reasonNames[r] }
