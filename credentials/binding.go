package credentials

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"codeberg.org/dataverket/segl/internal/identity"
)

// A Kind is what runs at a target.
type Kind string

// The kinds.
const (
	PostgreSQL Kind = "postgresql"
	MySQL      Kind = "mysql" // MariaDB too
	Redis      Kind = "redis" // Valkey too
)

// Kinds returns them all.
func Kinds() []Kind { return []Kind{PostgreSQL, MySQL, Redis} }

// A Target is a server at which logins are made. We log in there by a certificate of our own, as Manager.
type Target struct {
	ID    int64
	Name  Label
	Scope identity.Scope // whose it is: the platform's and a tenant's never mix
	Kind  Kind
	// Address is host:port; the host is also the name its certificate must have.
	Address string
	// Authority is the PEM of who vouches for that certificate; empty: our own roots.
	Authority string
	// Manager is as whom we log in, and Database where its functions are (PostgreSQL alone).
	Manager  string
	Database string

	MadeAt  time.Time
	EndedAt time.Time // zero while it is in use
}

// Check refuses a target that could not be meant, and spells its address in the one way that addresses are compared by.
func (t *Target) Check() error {
	if _, err := ParseLabel(string(t.Name)); err != nil {
		return err
	}
	address, err := oneSpelling(t.Address)
	if err != nil {
		return err
	}
	t.Address = address
	switch {
	case t.Scope.IsZero():
		return errors.New("target: belongs to no scope")
	case !slices.Contains(Kinds(), t.Kind):
		return fmt.Errorf("kind %.40q: want one of %v", t.Kind, Kinds())
	case len(t.Authority) > maxPEM:
		return fmt.Errorf("authority: %d octets: want at most %d", len(t.Authority), maxPEM)
	}
	if t.Manager == "" {
		t.Manager = "segl"
	}
	if t.Database == "" && t.Kind == PostgreSQL {
		t.Database = "postgres"
	}
	for _, s := range []string{t.Manager, t.Database} {
		if strings.Trim(s, lower+digits+"_") != "" || len(s) > 63 {
			return fmt.Errorf("name %.70q: want 1 to 63 of a-z, 0-9 and underscore", s)
		}
	}
	return nil
}

// oneSpelling returns an address in lower case, without a last dot or zeros before its port.
func oneSpelling(address string) (string, error) {
	host, text, err := net.SplitHostPort(address)
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	port, perr := strconv.ParseUint(text, 10, 16)
	if err != nil || perr != nil || port == 0 || host == "" || len(address) > 255 || strings.ContainsAny(address, " ,;'\"\\/@?=&\x00\n") {
		return "", fmt.Errorf("address %.80q: want host:port, one server", address)
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		host = ip.Unmap().String()
	}
	return net.JoinHostPort(host, strconv.FormatUint(port, 10)), nil
}

const maxPEM = 64 << 10

// A Way is how somebody gets in at a target.
type Way string

// The ways.
const (
	// Leased: a login of its own for each lease, with a password that only its holder ever has.
	Leased Way = "leased"
	// Certificate: the binding's role, without a password, for who shows a database-client certificate of that role.
	Certificate Way = "certificate"
	// Static: the binding's role, which exists already, gets a new password; the one before no longer works.
	Static Way = "static"
)

// A Binding says whose identity gets what: a login at a target, or tokens for audiences.
type Binding struct {
	ID    int64
	Name  Label
	Scope identity.Scope
	For   Pattern

	// A login. Target is zero where the binding is about tokens.
	Target      Target
	Way         Way
	Database    Word
	Group       Word // whose rights the login has
	Role        Word // the login itself, unless it is leased
	Life        time.Duration
	Connections int // at once for each login
	Leases      int // at once for each identity

	// Tokens. Life is theirs as well.
	Audiences []string
	Scopes    []string

	MadeAt  time.Time
	EndedAt time.Time // zero while it holds
}

// Bounds of bindings.
const (
	LongestLease       = 7 * 24 * time.Hour
	ShortestLease      = 30 * time.Second
	defaultConnections = 10
	defaultLeases      = 10
	most               = 1000
	maxWords           = 50
)

// Logs reports whether b is about logins, and not about tokens.
func (b *Binding) Logs() bool { return b.Target.Name != "" }

// Check refuses a binding that could not be meant, and fills in what was left out.
func (b *Binding) Check() error {
	_, err := ParseLabel(string(b.Name))
	switch {
	case err != nil:
		return err
	case b.Scope.IsZero():
		return errors.New("binding: belongs to no scope")
	case !b.For.Within(b.Scope):
		return fmt.Errorf("identities %.120q: want some of %s or below: a binding is for its own scope", b.For, b.Scope)
	case b.Logs() == (len(b.Audiences) > 0):
		return errors.New("binding: want either a target or audiences")
	case b.Life == 0:
		return errors.New("life: want how long a credential lasts at most, as 1h")
	case b.Life < ShortestLease || b.Life > LongestLease:
		return fmt.Errorf("life %s: want %s to %s", b.Life, ShortestLease, LongestLease)
	}
	if b.Logs() {
		return b.checkLogin()
	}
	return b.checkTokens()
}

func (b *Binding) checkLogin() error {
	if b.Way == "" {
		b.Way = Leased
	}
	if b.Connections == 0 {
		b.Connections = defaultConnections
	}
	if b.Leases == 0 {
		b.Leases = defaultLeases
	}
	switch {
	case b.Way != Leased && b.Way != Certificate && b.Way != Static:
		return fmt.Errorf("way %.40q: want %s, %s or %s", b.Way, Leased, Certificate, Static)
	case (b.Way == Leased) != (b.Role == ""):
		return fmt.Errorf("role %q: a leased login makes its own; the other ways need one", b.Role)
	case len(b.Scopes) > 0:
		return errors.New("scopes: are for tokens")
	case b.Connections < 1 || b.Connections > most || b.Leases < 1 || b.Leases > most:
		return fmt.Errorf("connections %d, leases %d: want 1 to %d", b.Connections, b.Leases, most)
	}
	words := []Word{b.Group}
	if b.Target.Kind != Redis {
		words = append(words, b.Database)
	}
	if b.Role != "" {
		words = append(words, b.Role)
	}
	for _, w := range words {
		if _, err := ParseWord(string(w)); err != nil && (w != "postgres" || w != b.Database) { // a database may be called so
			return err
		}
	}
	return nil
}

func (b *Binding) checkTokens() error {
	if b.Way != "" || b.Database != "" || b.Group != "" || b.Role != "" || b.Connections != 0 || b.Leases != 0 {
		return errors.New("binding: way, database, group, role, connections and leases are for logins")
	}
	if len(b.Audiences) > maxWords || len(b.Scopes) > maxWords {
		return fmt.Errorf("binding: want at most %d audiences and %d scopes", maxWords, maxWords)
	}
	for _, a := range b.Audiences {
		u, err := url.Parse(a)
		if err != nil || a == "" || len(a) > 255 || u.Fragment != "" || strings.ContainsAny(a, " \t\r\n\x00\"\\") { // RFC 8707 §2
			return fmt.Errorf("audience %.80q: want a URI or a word, without a fragment", a)
		}
	}
	for _, s := range b.Scopes {
		if !scopeToken(s) {
			return fmt.Errorf("scope %.80q: want printable characters without space, quote and backslash (RFC 6749 §3.3)", s)
		}
	}
	return nil
}

// scopeToken reports whether s is one: "1*( %x21 / %x23-5B / %x5D-7E )" (RFC 6749 §3.3).
func scopeToken(s string) bool {
	for _, c := range []byte(s) {
		if c < 0x21 || c > 0x7e || c == '"' || c == '\\' {
			return false
		}
	}
	return s != "" && len(s) <= 128
}
