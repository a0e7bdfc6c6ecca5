package lint

import (
	"fmt"
	"net/netip"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// checkNoRevAvail: RFC 9608 §2: the extension is NULL, is for ends of chains alone, and beside it stands nothing that says where
// to ask: no list, no responder.
func checkNoRevAvail(c *certificate, e *Expect) string {
	x := c.known[extNoRevAvail]
	switch {
	case x == nil && !e.NoRevAvail:
		return ""
	case x == nil:
		return "missing"
	case !e.NoRevAvail:
		return "present, yet it was not asked"
	case e.Usage == Authority || e.Usage == OCSPResponder:
		return `on an authority's: "This extension MUST NOT be present in CA public key certificates"`
	case string(x.value) != "\x05\x00":
		return "its value is not NULL"
	case c.known[extCRLs] != nil || e.OCSP != "":
		return "beside a list or a responder, who could then be asked"
	}
	return ""
}

// checkFeatures: RFC 7633 §4.1: Features ::= SEQUENCE OF INTEGER. status_request is TLS extension 5 (RFC 6066 §8); ours is that alone.
func checkFeatures(c *certificate, e *Expect) string {
	x := c.known[extFeatures]
	switch {
	case x == nil && !e.MustStaple:
		return ""
	case x == nil:
		return "missing"
	case !e.MustStaple:
		return "present, yet it was not asked"
	case string(x.value) != "\x30\x03\x02\x01\x05":
		return "not status_request alone"
	case e.OCSP == "":
		return "there is nobody whose answer could be stapled"
	}
	return ""
}

// A Permitted says which names may stand below an authority. A kind that is empty is shut: a constraint that leaves out a kind
// would leave it free (RFC 5280 §4.2.1.10).
type Permitted struct {
	DNS []string // each with every name below it
	IP  []netip.Prefix
	// URI are hosts of URIs: of SPIFFE IDs, their trust domain. The path cannot be constrained.
	URI []string
}

// The tags of a GeneralName (RFC 5280 §4.2.1.6).
const (
	dnsName asn1.Tag = 0x82
	uriName asn1.Tag = 0x86
	ipName  asn1.Tag = 0x87
)

// checkNameConstraints wants the subtrees that were asked, and whatever kind has none shut: DNS names and addresses are excluded
// as a whole; of URIs, where no form says "any host" to every verifier, the one host is permitted that can never be (RFC 6761 §6.4).
//
//	NameConstraints ::= SEQUENCE { permittedSubtrees [0] GeneralSubtrees OPTIONAL, excludedSubtrees [1] GeneralSubtrees OPTIONAL }
//	GeneralSubtree ::= SEQUENCE { base GeneralName, minimum [0] DEFAULT 0, maximum [1] OPTIONAL }
func checkNameConstraints(c *certificate, e *Expect) string {
	x := c.known[extNameConstraints]
	switch {
	case x == nil && e.Permitted == nil:
		return ""
	case x == nil:
		return "missing"
	case e.Permitted == nil:
		return "present, yet none were asked"
	case e.Usage != Authority:
		return `on a leaf: "MUST be used only in a CA certificate"`
	}
	s := cryptobyte.String(x.value)
	var body cryptobyte.String
	if !s.ReadASN1(&body, asn1.SEQUENCE) || !s.Empty() {
		return "malformed"
	}
	permitted, excluded := subtreesOf(*e.Permitted)
	for _, list := range []struct {
		tag  asn1.Tag
		want []subtree
	}{{0xa0, permitted}, {0xa1, excluded}} {
		if wrong := readSubtrees(&body, list.tag, list.want); wrong != "" {
			return wrong
		}
	}
	if !body.Empty() {
		return "something follows the subtrees"
	}
	return ""
}

// A subtree is a name and everything below it.
type subtree struct {
	tag   asn1.Tag
	value string
}

func subtreesOf(p Permitted) (permitted, excluded []subtree) {
	for _, n := range p.DNS {
		permitted = append(permitted, subtree{dnsName, n})
	}
	for _, r := range p.IP {
		permitted = append(permitted, subtree{ipName, string(r.Masked().Addr().AsSlice()) + mask(r)})
	}
	hosts := p.URI
	if len(hosts) == 0 {
		hosts = []string{"invalid"}
	}
	for _, h := range hosts {
		permitted = append(permitted, subtree{uriName, h})
	}
	if len(p.DNS) == 0 {
		excluded = append(excluded, subtree{dnsName, ""})
	}
	if len(p.IP) == 0 { // 0.0.0.0/0 and ::/0: an address of either form
		excluded = append(excluded, subtree{ipName, string(make([]byte, 8))}, subtree{ipName, string(make([]byte, 32))})
	}
	return permitted, excluded
}

// mask is a prefix's mask: RFC 5280 §4.2.1.10 writes it behind the address.
func mask(r netip.Prefix) string {
	m := make([]byte, r.Addr().BitLen()/8)
	for i := range r.Bits() {
		m[i/8] |= 0x80 >> (i % 8)
	}
	return string(m)
}

func readSubtrees(body *cryptobyte.String, tag asn1.Tag, want []subtree) string {
	if len(want) == 0 {
		return ""
	}
	var list, one, value cryptobyte.String
	if !body.ReadASN1(&list, tag) {
		return "a list of subtrees is missing"
	}
	for _, w := range want {
		if !list.ReadASN1(&one, asn1.SEQUENCE) || !one.ReadASN1(&value, w.tag) || !one.Empty() || string(value) != w.value {
			return fmt.Sprintf("%q is not where it was asked", w.value)
		}
	}
	if !list.Empty() {
		return "more subtrees than asked"
	}
	return ""
}
