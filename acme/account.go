package acme

import (
	"crypto"
	"net/mail"
	"net/netip"
	"strings"
	"sync"
	"time"

	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/uid"
)

// An Account is who orders: a key, in one scope.
type Account struct {
	ID          uid.UID
	Scope       identity.Scope
	Key         crypto.PublicKey
	KeyID       cert.KeyID
	Thumbprint  string // RFC 7638, of Key
	Contact     []string
	TermsAgreed bool
	Terms       string  // the URL of those it agreed to last, if it agreed to any
	Binding     uid.UID // the external account key it was made with, or zero
	Created     time.Time
	Deactivated time.Time // zero while it stands
}

// Status returns the account's status (RFC 8555 §7.1.2).
func (a Account) Status() Status {
	if a.Deactivated.IsZero() {
		return Valid
	}
	return Deactivated
}

// A Holder is an account whose request was admitted, and where the request came from.
type Holder struct {
	Account
	Remote  netip.Addr
	Request string
}

// Caller returns h as facts name it.
func (h Holder) Caller() identity.Caller {
	return identity.Caller{Actor: "acme:" + h.ID.String(), Scope: h.Scope, Proved: h.Scope, Remote: h.Remote, Request: h.Request}
}

// Contacts are bounded: they are written to the ledger and shown to operators.
const (
	maxContacts = 10
	maxContact  = 254 // of an address, RFC 5321 §4.5.3.1.3
)

// checkContacts refuses what RFC 8555 §7.3 tells a server to refuse.
func checkContacts(list []string) *Problem {
	if len(list) > maxContacts {
		return problem(InvalidContact, "%d contacts: give at most %d", len(list), maxContacts)
	}
	for _, c := range list {
		address, ok := strings.CutPrefix(c, "mailto:")
		if !ok {
			return problem(UnsupportedContact, "contact %.80q: use a mailto: URL (RFC 8555 §7.3)", c)
		}
		// RFC 8555 §7.3: "Servers that support mailto MUST reject … "hfields" … or more than one "addr-spec"".
		a, err := mail.ParseAddress(address)
		if err != nil || a.Name != "" || a.Address != address || len(address) > maxContact || strings.ContainsAny(address, "?%,\"<> ") {
			return problem(InvalidContact, "contact %.80q: give one plain address and no header fields (RFC 8555 §7.3)", c)
		}
	}
	return nil
}

// accounts remembers accounts, so that most requests need not read theirs before their signature is checked. What it says
// is never believed alone: Store.Admit tells which key and standing the account has now.
type accounts struct {
	mu  sync.Mutex
	all map[uid.UID]Account
}

const rememberedAccounts = 4096

func newAccounts() *accounts { return &accounts{all: make(map[uid.UID]Account)} }

func (c *accounts) get(id uid.UID) (Account, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	a, ok := c.all[id]
	return a, ok
}

func (c *accounts) put(a Account) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.all) >= rememberedAccounts {
		for id := range c.all { // any one: the order of a map is random enough
			delete(c.all, id)
			break
		}
	}
	c.all[a.ID] = a
}
