package acme

import (
	"errors"
	"fmt"

	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/policy"
)

// An Identifier is a name as ACME writes it (RFC 8555 §9.7.7, RFC 8738 §3).
type Identifier struct {
	Type  string `json:"type"`
	Value string `json:"value"`
}

// IdentifierOf returns n as orders carry it.
func IdentifierOf(n cert.Name) Identifier { return Identifier{n.Kind().String(), n.Value()} }

// parse returns the name that i is, or why it cannot be ordered.
func (i Identifier) parse() (cert.Name, *Problem) {
	var n cert.Name
	var err error
	switch i.Type {
	case "dns":
		n, err = cert.ParseDNS(i.Value)
	case "ip":
		n, err = cert.ParseIP(i.Value)
	case "permanent-identifier": // draft-ietf-acme-device-attest-09 §3.1
		n, err = cert.ParseDevice(i.Value)
	default:
		return cert.Name{}, problem(UnsupportedIdentifier, "identifier type %.40q: order dns or ip (RFC 8555 §9.7.7, RFC 8738 §3)", i.Type)
	}
	if err != nil {
		return cert.Name{}, problem(RejectedIdentifier, "%s", err)
	}
	return n, nil
}

// about makes p a subproblem about i, of which it quotes a bounded part.
func (p *Problem) about(i Identifier) *Problem {
	const most = 256
	p.Identifier = &Identifier{i.Type[:min(len(i.Type), 40)], i.Value[:min(len(i.Value), most)]}
	return p
}

// names reads the identifiers of an order, each once, and refuses those that rights do not allow: all of them at once, so
// that a client need not find out one by one.
func names(ids []Identifier, rights policy.Chain) ([]cert.Name, *Problem) {
	if len(ids) == 0 {
		return nil, problem(Malformed, `"identifiers" is empty: name at least one (RFC 8555 §7.4)`)
	}
	if len(ids) > cert.MaxNames {
		return nil, problem(Malformed, "%d identifiers: at most %d; make several orders", len(ids), cert.MaxNames)
	}
	var out []cert.Name
	var refused []*Problem
	seen := make(map[cert.Name]bool, len(ids))
	for _, id := range ids {
		n, p := id.parse()
		if p == nil && !seen[n] {
			seen[n] = true
			out = append(out, n)
			p = allowed(rights, n)
		}
		if p != nil {
			refused = append(refused, p.about(id))
		}
	}
	if len(refused) > 0 {
		return nil, gather(refused)
	}
	return out, nil
}

func allowed(rights policy.Chain, n cert.Name) *Problem {
	err := rights.Allow(n)
	if err == nil {
		return nil
	}
	var r *policy.Refusal
	if !errors.As(err, &r) {
		return problem(RejectedIdentifier, "%s may not be ordered here", n)
	}
	return problem(RejectedIdentifier, "%s", r)
}

// gather makes one problem of several (RFC 8555 §6.7.1).
func gather(all []*Problem) *Problem {
	p := *all[0]
	p.Identifier = nil
	for _, sub := range all[1:] {
		if sub.Type != p.Type {
			p.Type = Compound
		}
	}
	if len(all) > 1 {
		p.Detail = fmt.Sprintf("%d identifiers are refused: see subproblems", len(all))
	}
	p.Subproblems = all
	return &p
}
