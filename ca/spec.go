package ca

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"codeberg.org/dataverket/segl/ca/tbs"
	"codeberg.org/dataverket/segl/internal/policy"
	"codeberg.org/dataverket/segl/kms"
)

// A Spec is what somebody declared of a profile: the whole of it for the platform, or, for a tenant's scope, what narrows it there.
// Its JSON is what the ledger keeps. What is left out has the safe value: no names, the shortest list.
type Spec struct {
	Summary string  `json:"summary,omitempty"`  // for people, 200 octets
	Purpose Purpose `json:"purpose,omitempty"`  // which authorities sign it: servers, workloads or databases
	Life    Span    `json:"life,omitempty"`     // when none is asked for. Default: 24h, or MaxLife if that is less
	MaxLife Span    `json:"max_life,omitempty"` // at most LongestLife. Default: Life
	// Hosts and Identity: refused (the default), allowed or required.
	Hosts    string   `json:"hosts,omitempty"`
	Identity string   `json:"identity,omitempty"`
	Role     bool     `json:"role,omitempty"` // the common name is a database role
	Usage    []string `json:"usage,omitzero"` // extended key usage: server, client or both
	Keys     []string `json:"keys,omitzero"`  // kms.Algorithm; rsaN is N bits or more. Default: every kind, RSA of 3072 bits or more
	// NoRevAvail (RFC 9608) is for certificates of at most ShortLife; MustStaple (RFC 7633) for servers.
	NoRevAvail bool `json:"no_rev_avail,omitempty"`
	MustStaple bool `json:"must_staple,omitempty"`
	// Addresses are those that stand in the certificate: crl, ocsp, issuers. Default: all; with NoRevAvail, issuers. Without a list
	// and a responder a certificate has to be NoRevAvail: who relies on it is to know.
	Addresses []string `json:"addresses,omitzero"`
	Withdrawn bool     `json:"withdrawn,omitempty"` // nothing more is issued by it
}

// A Span is a time.Duration whose text may count days.
type Span time.Duration

// MarshalText writes whole days as days.
func (s Span) MarshalText() ([]byte, error) {
	if d := time.Duration(s); d%day == 0 && d != 0 {
		return []byte(strconv.Itoa(int(d/day)) + "d"), nil
	}
	return []byte(time.Duration(s).String()), nil
}

// UnmarshalText reads 30d, 36h or 90m.
func (s *Span) UnmarshalText(text []byte) error {
	if days, ok := strings.CutSuffix(string(text), "d"); ok {
		n, err := strconv.ParseUint(days, 10, 16)
		*s = Span(n) * Span(day)
		return err
	}
	d, err := time.ParseDuration(string(text))
	*s = Span(d)
	return err
}

const maxSpec = 4096

// ParseSpec reads a Spec's JSON. What it does not know it refuses: a rule that is not understood is not kept.
func ParseSpec(text []byte) (s Spec, err error) {
	if len(text) > maxSpec {
		return Spec{}, fmt.Errorf("reading a profile: %d octets, at most %d", len(text), maxSpec)
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&s); err != nil {
		return Spec{}, fmt.Errorf("reading a profile: %w", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return Spec{}, errors.New("reading a profile: something follows it")
	}
	return s, nil
}

// JSON is what ParseSpec reads.
func (s Spec) JSON() []byte {
	text, err := json.Marshal(s)
	if err != nil {
		panic("ca: internal error: encoding a profile: " + err.Error())
	}
	return text
}

var profileName = regexp.MustCompile(`^[a-z][a-z0-9-]{0,39}$`)

// CheckProfileName refuses what cannot name a profile that may be asked for.
func CheckProfileName(name string) error {
	if !profileName.MatchString(name) || slices.Contains(own, name) {
		return badProfile(name, fmt.Sprintf("name %.50q", name), "use 1 to 40 of a-z, 0-9 and hyphen, the first a letter; ours are "+strings.Join(own, ", "))
	}
	return nil
}

func badProfile(name, what, remedy string) *policy.Refusal {
	return &policy.Refusal{What: fmt.Sprintf("profile %.50q: %s", name, what), Rule: "the form of a profile", Remedy: remedy}
}

var (
	presences = map[string]Presence{"": Refused, "refused": Refused, "allowed": Allowed, "required": Required}
	usages    = map[string]tbs.Usage{"server": tbs.Server, "client": tbs.Client, "server,client": tbs.ServerAndClient, "client,server": tbs.ServerAndClient}
)

const (
	defaultLife = day
	maxSummary  = 200
)

// profile checks the whole of a platform's Spec and fills in the defaults.
func (s Spec) profile(name string) (*Profile, error) {
	if err := CheckProfileName(name); err != nil {
		return nil, err
	}
	p := &Profile{
		Name: name, Summary: s.Summary, Purpose: s.Purpose, Default: time.Duration(s.Life), Max: time.Duration(s.MaxLife), Role: s.Role,
		NoRevAvail: s.NoRevAvail, MustStaple: s.MustStaple, Withdrawn: s.Withdrawn,
	}
	if p.Default == 0 {
		p.Default = defaultLife
		if p.Max != 0 {
			p.Default = min(defaultLife, p.Max)
		}
	}
	if p.Max == 0 {
		p.Max = p.Default
	}
	var ok1, ok2, ok3 bool
	p.Hosts, ok1 = presences[s.Hosts]
	p.Identity, ok2 = presences[s.Identity]
	p.usage, ok3 = usages[strings.Join(s.Usage, ",")]
	switch {
	case !ok1 || !ok2:
		return nil, badProfile(name, "hosts or identity", "each is refused, allowed or required")
	case !ok3: // anything else would not be within what the authorities' own certificates allow (RFC 5280 §4.2.1.12)
		return nil, badProfile(name, fmt.Sprintf("usage %.60q", s.Usage), "choose [server], [client] or [server, client]: authorities are for these alone")
	case !slices.Contains(Purposes, s.Purpose):
		return nil, badProfile(name, fmt.Sprintf("purpose %.40q", string(s.Purpose)), fmt.Sprintf("choose one of %v", Purposes))
	case len(s.Summary) > maxSummary:
		return nil, badProfile(name, "a summary of "+strconv.Itoa(len(s.Summary))+" octets", "use at most "+strconv.Itoa(maxSummary))
	}
	var err error
	if p.Keys, err = keysOf(name, s.Keys); err != nil {
		return nil, err
	}
	if err := p.point(s.Addresses); err != nil {
		return nil, err
	}
	return p, p.check()
}

// point settles which addresses stand in the certificate.
func (p *Profile) point(to []string) error {
	if to == nil {
		p.CRLs, p.OCSP, p.Issuers = !p.NoRevAvail, !p.NoRevAvail, true
		return nil
	}
	for _, a := range to {
		switch a {
		case "crl":
			p.CRLs = true
		case "ocsp":
			p.OCSP = true
		case "issuers":
			p.Issuers = true
		default:
			return badProfile(p.Name, fmt.Sprintf("address %.40q", a), "choose of crl, ocsp and issuers")
		}
	}
	return nil
}

// check refuses what contradicts itself, or what would be less safe than it looks.
func (p *Profile) check() error { //nolint:cyclop // a list of rules
	refuse := func(what, remedy string) error { return badProfile(p.Name, what, remedy) }
	switch {
	case p.Default < MinLife || p.Max < p.Default || p.Max > LongestLife:
		return refuse(fmt.Sprintf("a life of %s, at most %s", p.Default, p.Max), fmt.Sprintf("life is from %s up to max_life, and that up to %s", MinLife, LongestLife))
	case p.Default%time.Second != 0 || p.Max%time.Second != 0:
		return refuse("a part of a second", "count whole seconds (RFC 5280 §4.1.2.5)")
	case p.Hosts == Refused && p.Identity != Required:
		return refuse("certificates that name nobody", "require or allow hosts, or require an identity")
	case p.Role && (p.Identity != Required || p.usage != tbs.Client):
		return refuse("a role without an identity, or of a server", "require an identity, with usage [client]")
	case p.NoRevAvail && p.Max > ShortLife:
		return refuse("no_rev_avail for "+p.Max.String(), "what nobody tells the end of lives "+ShortLife.String()+" at most")
	case p.NoRevAvail && (p.CRLs || p.OCSP): // RFC 9608 §2
		return refuse("no_rev_avail beside crl or ocsp", "leave addresses out, or have issuers alone")
	case p.NoRevAvail && p.MustStaple:
		return refuse("no_rev_avail and must_staple", "choose one")
	case !p.NoRevAvail && !p.CRLs && !p.OCSP:
		return refuse("neither crl nor ocsp", "have one of them, or say no_rev_avail")
	case p.MustStaple && !p.OCSP:
		return refuse("must_staple without ocsp", "add ocsp to addresses: there is nothing else to staple")
	case p.MustStaple && p.usage == tbs.Client:
		return refuse("must_staple of a client", "servers staple (RFC 7633 §4)")
	case len(p.Keys) == 0:
		return refuse("no kind of key", "allow one")
	}
	return nil
}

// keysOf reads a list of kinds of keys. Without one it is every kind, RSA from 3072 bits on: 2048 ends with 2030 (NIST SP 800-57
// part 1 §5.6.3).
func keysOf(name string, list []string) ([]kms.Algorithm, error) {
	if list == nil {
		return []kms.Algorithm{kms.P256, kms.P384, kms.Ed25519, kms.RSA3072}, nil
	}
	out := make([]kms.Algorithm, 0, len(list))
	for _, s := range list {
		a, err := kms.ParseAlgorithm(s)
		if err != nil || s == "" || slices.Contains(out, a) {
			return nil, badProfile(name, fmt.Sprintf("key %.40q", s), fmt.Sprintf("choose of %v, each once", kms.Algorithms()))
		}
		out = append(out, a)
	}
	return out, nil
}

// narrow returns what p becomes where s is declared below it. It never widens: lives are the shorter, kinds of keys those that both
// allow.
func (s Spec) narrow(p *Profile) (*Profile, error) {
	if s.Purpose != "" || s.Hosts != "" || s.Identity != "" || s.Role || s.Usage != nil || s.NoRevAvail || s.Addresses != nil {
		return nil, badProfile(p.Name, "more than a scope decides", "below the platform give summary, life, max_life, keys, must_staple or withdrawn")
	}
	n := *p
	if s.Summary != "" {
		n.Summary = s.Summary
	}
	if s.MaxLife != 0 {
		n.Max = min(n.Max, time.Duration(s.MaxLife))
	}
	if s.Life != 0 {
		n.Default = time.Duration(s.Life)
	}
	n.Default = min(n.Default, n.Max)
	if s.Keys != nil {
		keys, err := keysOf(p.Name, s.Keys)
		if err != nil {
			return nil, err
		}
		n.Keys = narrower(p.Keys, keys)
	}
	n.MustStaple, n.Withdrawn = n.MustStaple || s.MustStaple, n.Withdrawn || s.Withdrawn
	return &n, n.check()
}

// narrower returns what both lists allow; an RSA size allows itself and above.
func narrower(a, b []kms.Algorithm) []kms.Algorithm {
	out := []kms.Algorithm{}
	for _, x := range b {
		for _, y := range a {
			n, rsa1 := x.RSA()
			m, rsa2 := y.RSA()
			switch {
			case x == y || rsa1 && rsa2 && n > m:
				out = append(out, x)
			case rsa1 && rsa2:
				out = append(out, y)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}
