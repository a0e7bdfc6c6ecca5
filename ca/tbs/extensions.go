package tbs

import (
	"crypto/x509"
	"fmt"
	"math/bits"
	"net"
	"net/netip"
	"unicode"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"codeberg.org/dataverket/segl/ca/lint"
	"codeberg.org/dataverket/segl/internal/cert"
)

// Object identifiers in DER: id-ce is 2.5.29 and id-pe 1.3.6.1.5.5.7.1 (RFC 5280 §4.2).
var (
	idCommonName       = []byte{6, 3, 0x55, 4, 3}
	idSubjectKeyID     = []byte{6, 3, 0x55, 0x1d, 14}
	idKeyUsage         = []byte{6, 3, 0x55, 0x1d, 15}
	idSubjectAltName   = []byte{6, 3, 0x55, 0x1d, 17}
	idBasicConstraints = []byte{6, 3, 0x55, 0x1d, 19}
	idCRLs             = []byte{6, 3, 0x55, 0x1d, 31}
	idPolicies         = []byte{6, 3, 0x55, 0x1d, 32}
	idAuthorityKeyID   = []byte{6, 3, 0x55, 0x1d, 35}
	idExtKeyUsage      = []byte{6, 3, 0x55, 0x1d, 37}
	idNameConstraints  = []byte{6, 3, 0x55, 0x1d, 30}
	idNoRevAvail       = []byte{6, 3, 0x55, 0x1d, 56}             // RFC 9608 §2
	idTLSFeature       = []byte{6, 8, 0x2b, 6, 1, 5, 5, 7, 1, 24} // RFC 7633 §6
	idAuthorityInfo    = []byte{6, 8, 0x2b, 6, 1, 5, 5, 7, 1, 1}
	idOCSP             = []byte{6, 8, 0x2b, 6, 1, 5, 5, 7, 48, 1}
	idCAIssuers        = []byte{6, 8, 0x2b, 6, 1, 5, 5, 7, 48, 2}
	idOCSPNoCheck      = []byte{6, 9, 0x2b, 6, 1, 5, 5, 7, 48, 1, 5} // RFC 6960 §4.2.2.2.1
)

// Context-specific tags: 80 (hex) and the number, and 20 (hex) when constructed (X.690 §8.1.2).
const (
	tagFullName  asn1.Tag = 0xa0 // DistributionPoint's [0], and inside it DistributionPointName's [0]
	tagPermitted asn1.Tag = 0xa0 // of NameConstraints
	tagExcluded  asn1.Tag = 0xa1
	tagKeyID     asn1.Tag = 0x80
	tagDNSName   asn1.Tag = 0x82
	tagURI       asn1.Tag = 0x86
	tagIPAddress asn1.Tag = 0x87
)

// criticality is BOOLEAN TRUE, or nothing: DER leaves out what is the default (X.690 §11.5).
type criticality []byte

var (
	critical    = criticality{1, 1, 0xff}
	notCritical criticality
)

// addExtension adds SEQUENCE { extnID, critical, extnValue OCTET STRING }.
func addExtension(b *cryptobyte.Builder, id []byte, c criticality, value cryptobyte.BuilderContinuation) {
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(id)
		b.AddBytes(c)
		b.AddASN1(asn1.OCTET_STRING, value)
	})
}

// addExtensions adds them in the order crypto/x509 does, so that the two can be compared octet for octet.
func (t *Template) addExtensions(b *cryptobyte.Builder, v Values, k key) {
	if k.rsa {
		b.AddBytes(t.rsaUsage)
	} else {
		b.AddBytes(t.keyUsage)
	}
	b.AddBytes(t.limits)
	if t.spec.Usage == Authority {
		addSubjectKeyID(b, k)
	}
	b.AddBytes(t.authority)
	if len(v.Names) > 0 {
		addNames(b, v)
	}
	b.AddBytes(t.policies)
	b.AddBytes(t.names)
	if t.spec.CRLs != "" || t.spec.List != "" {
		addCRLs(b, t.crlURL(v))
	}
	b.AddBytes(t.noCheck)
	b.AddBytes(t.status)
}

// addKeyUsage: RFC 5280 §4.2.1.3: "When present, conforming CAs SHOULD mark this extension as critical". A named bit list
// ends at its last one (X.690 §11.2.2); all of ours fit in one octet.
func addKeyUsage(b *cryptobyte.Builder, usage x509.KeyUsage) {
	octet := bits.Reverse8(byte(usage))        //nolint:gosec // see above
	unused := byte(bits.TrailingZeros8(octet)) //nolint:gosec // 8 at most
	addExtension(b, idKeyUsage, critical, func(b *cryptobyte.Builder) {
		b.AddASN1(asn1.BIT_STRING, func(b *cryptobyte.Builder) { b.AddBytes([]byte{unused, octet}) })
	})
}

func addPurposes(b *cryptobyte.Builder, s Spec) {
	list := purposes(s)
	if len(list) == 0 {
		return
	}
	addExtension(b, idExtKeyUsage, notCritical, func(b *cryptobyte.Builder) {
		b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
			for _, p := range list {
				addOID(b, p.OID())
			}
		})
	})
}

func addOID(b *cryptobyte.Builder, id x509.OID) {
	der, err := id.MarshalBinary()
	if err != nil {
		b.SetError(err)
		return
	}
	b.AddASN1(asn1.OBJECT_IDENTIFIER, func(b *cryptobyte.Builder) { b.AddBytes(der) })
}

// addBasicConstraints says of every certificate whether it is an authority's. On leaves it is an empty SEQUENCE: SPIFFE's
// X509-SVID §4.1 and careless verifiers want it said.
//
//	BasicConstraints ::= SEQUENCE { cA BOOLEAN DEFAULT FALSE, pathLenConstraint INTEGER (0..MAX) OPTIONAL }
func addBasicConstraints(b *cryptobyte.Builder, s Spec) {
	addExtension(b, idBasicConstraints, critical, func(b *cryptobyte.Builder) {
		b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
			if s.Usage != Authority {
				return
			}
			b.AddASN1Boolean(true)
			if s.PathLen >= 0 {
				b.AddASN1Int64(int64(s.PathLen))
			}
		})
	})
}

// addSubjectKeyID is for authorities. Leaves have none: RFC 5280 §4.2.1.2 says SHOULD so that paths can be built
// upwards, which nobody does through a leaf, and BR §7.1.2.7.6 says NOT RECOMMENDED.
func addSubjectKeyID(b *cryptobyte.Builder, k key) {
	addExtension(b, idSubjectKeyID, notCritical, func(b *cryptobyte.Builder) { b.AddASN1OctetString(keyID(k.point)) })
}

// addAuthorityKeyID names the issuer's key, and nothing else: issuer name and serial would tie the certificate to one of
// several certificates of the same authority. A root may leave it out (RFC 5280 §4.2.1.1).
func addAuthorityKeyID(b *cryptobyte.Builder, id []byte) {
	if len(id) == 0 {
		return
	}
	addExtension(b, idAuthorityKeyID, notCritical, func(b *cryptobyte.Builder) {
		b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1(tagKeyID, func(b *cryptobyte.Builder) { b.AddBytes(id) })
		})
	})
}

// addAuthorityInfo: RFC 5280 §4.2.2.1, the responder first, as crypto/x509 has it.
func addAuthorityInfo(b *cryptobyte.Builder, ocsp, issuers string) {
	if ocsp == "" && issuers == "" {
		return
	}
	addExtension(b, idAuthorityInfo, notCritical, func(b *cryptobyte.Builder) {
		b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
			addAccess(b, idOCSP, ocsp)
			addAccess(b, idCAIssuers, issuers)
		})
	})
}

func addAccess(b *cryptobyte.Builder, method []byte, url string) {
	if url == "" {
		return
	}
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(method)
		addIA5(b, tagURI, url)
	})
}

// addNames: RFC 5280 §4.2.1.6: "If the subject field contains an empty sequence, then the issuing CA MUST include a
// subjectAltName extension that is marked as critical"; with a subject it SHOULD NOT be.
func addNames(b *cryptobyte.Builder, v Values) {
	c := notCritical
	if v.CommonName == "" {
		c = critical
	}
	addExtension(b, idSubjectAltName, c, func(b *cryptobyte.Builder) {
		b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
			for _, n := range v.Names {
				addName(b, n)
			}
		})
	})
}

func addName(b *cryptobyte.Builder, n cert.Name) {
	switch n.Kind() {
	case cert.DNS:
		addIA5(b, tagDNSName, n.Value())
	case cert.URI:
		addIA5(b, tagURI, n.Value())
	case cert.IP:
		b.AddASN1(tagIPAddress, func(b *cryptobyte.Builder) { b.AddBytes(n.Addr().AsSlice()) })
	}
}

// addIA5 adds s under a tag that stands for IA5String: ASCII alone.
func addIA5(b *cryptobyte.Builder, tag asn1.Tag, s string) {
	for i := range len(s) {
		if s[i] > unicode.MaxASCII {
			b.SetError(fmt.Errorf("%.80q is not ASCII (RFC 5280 §4.2.1.6)", s))
			return
		}
	}
	b.AddASN1(tag, func(b *cryptobyte.Builder) { b.AddBytes([]byte(s)) })
}

// addPolicies: RFC 5280 §4.2.1.4, without qualifiers.
func addPolicies(b *cryptobyte.Builder, policies []x509.OID) {
	if len(policies) == 0 {
		return
	}
	addExtension(b, idPolicies, notCritical, func(b *cryptobyte.Builder) {
		b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
			for _, p := range policies {
				b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) { addOID(b, p) })
			}
		})
	})
}

// addCRLs adds one distribution point with one URL (RFC 5280 §4.2.1.13). The list repeats the URL, octet for octet, in its
// issuing distribution point.
func addCRLs(b *cryptobyte.Builder, url string) {
	addExtension(b, idCRLs, notCritical, func(b *cryptobyte.Builder) {
		b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddASN1(tagFullName, func(b *cryptobyte.Builder) {
					b.AddASN1(tagFullName, func(b *cryptobyte.Builder) { addIA5(b, tagURI, url) })
				})
			})
		})
	})
}

// addNoCheck: RFC 6960 §4.2.2.2.1: the responder's own certificate is not asked about; it is short-lived instead.
func addNoCheck(b *cryptobyte.Builder, u Usage) {
	if u == OCSPResponder {
		addExtension(b, idOCSPNoCheck, notCritical, func(b *cryptobyte.Builder) { b.AddASN1NULL() })
	}
}

// statusRequest is TLS extension 5 (RFC 6066 §8).
const statusRequest = 5

// addStatus says that nothing will tell of the certificate's end (RFC 9608 §2: "MUST NOT be marked critical", NULL), or that its server
// sends a status along (RFC 7633 §4.1: Features ::= SEQUENCE OF INTEGER).
func addStatus(b *cryptobyte.Builder, s Spec) {
	if s.NoRevAvail {
		addExtension(b, idNoRevAvail, notCritical, func(b *cryptobyte.Builder) { b.AddASN1NULL() })
	}
	if s.MustStaple {
		addExtension(b, idTLSFeature, notCritical, func(b *cryptobyte.Builder) {
			b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) { b.AddASN1Int64(statusRequest) })
		})
	}
}

// nowhere is a host that can never be (RFC 6761 §6.4): where only it is permitted, no URI is.
const nowhere = "invalid"

// addNameConstraints: RFC 5280 §4.2.1.10: "Conforming CAs MUST mark this extension as critical". A kind of which nothing is
// permitted would be free if it were left out, so it is shut: excluded as a whole, or, for URIs, of which no form means all of them,
// permitted at a host that can never be.
//
//	NameConstraints ::= SEQUENCE { permittedSubtrees [0] GeneralSubtrees OPTIONAL, excludedSubtrees [1] GeneralSubtrees OPTIONAL }
func addNameConstraints(b *cryptobyte.Builder, p *lint.Permitted) {
	if p == nil {
		return
	}
	hosts := p.URI
	if len(hosts) == 0 {
		hosts = []string{nowhere}
	}
	addExtension(b, idNameConstraints, critical, func(b *cryptobyte.Builder) {
		b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1(tagPermitted, func(b *cryptobyte.Builder) {
				for _, n := range p.DNS {
					addSubtree(b, func(b *cryptobyte.Builder) { addIA5(b, tagDNSName, n) })
				}
				for _, r := range p.IP {
					addSubtree(b, func(b *cryptobyte.Builder) { addRange(b, r) })
				}
				for _, h := range hosts {
					addSubtree(b, func(b *cryptobyte.Builder) { addIA5(b, tagURI, h) })
				}
			})
			addExcluded(b, p)
		})
	})
}

func addExcluded(b *cryptobyte.Builder, p *lint.Permitted) {
	if len(p.DNS) > 0 && len(p.IP) > 0 {
		return
	}
	b.AddASN1(tagExcluded, func(b *cryptobyte.Builder) {
		if len(p.DNS) == 0 {
			addSubtree(b, func(b *cryptobyte.Builder) { addIA5(b, tagDNSName, "") })
		}
		if len(p.IP) == 0 {
			addSubtree(b, func(b *cryptobyte.Builder) { addRange(b, netip.MustParsePrefix("0.0.0.0/0")) })
			addSubtree(b, func(b *cryptobyte.Builder) { addRange(b, netip.MustParsePrefix("::/0")) })
		}
	})
}

// addSubtree adds GeneralSubtree ::= SEQUENCE { base GeneralName }: "minimum MUST be zero, and maximum MUST be absent".
func addSubtree(b *cryptobyte.Builder, base cryptobyte.BuilderContinuation) {
	b.AddASN1(asn1.SEQUENCE, base)
}

// addRange adds an address and a mask, "encoded in the style of RFC 4632 (CIDR)".
func addRange(b *cryptobyte.Builder, r netip.Prefix) {
	addr := r.Masked().Addr()
	b.AddASN1(tagIPAddress, func(b *cryptobyte.Builder) {
		b.AddBytes(addr.AsSlice())
		b.AddBytes(net.CIDRMask(r.Bits(), addr.BitLen()))
	})
}
