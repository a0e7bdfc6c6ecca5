package attest_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1" //nolint:gosec // what is refused
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"codeberg.org/dataverket/segl/acme/attest"
)

// A TPM's statement, to be changed in one thing.
type tpmDevice struct {
	ak        *rsa.PrivateKey
	key       *ecdsa.PrivateKey
	area      tpm2.TPMTPublic
	extra     []byte
	name      []byte // of the certified key; nil: area's own
	subject   pkix.Name
	usage     []asn1.ObjectIdentifier
	san       []byte
	version   string
	algorithm int
	hash      crypto.Hash
	quote     bool // certInfo is of another kind
	by        maker
	tamper    func(statement map[string]any)
}

func rdn(oid asn1.ObjectIdentifier, value string) any {
	type attribute struct {
		Type  asn1.ObjectIdentifier
		Value string `asn1:"utf8"`
	}
	return []attribute{{oid, value}}
}

// sanOf is the subjectAltName of an attesting key: the TPM's attributes, and permanent identifiers.
func sanOf(attributes int, identifiers ...string) []byte {
	var names []asn1.RawValue
	rdns := []byte{}
	for i := range attributes {
		set := must(asn1.MarshalWithParams(rdn(asn1.ObjectIdentifier{2, 23, 133, 2, i + 1}, "id:1"), "set"))
		rdns = append(rdns, set...)
	}
	name := must(asn1.Marshal(asn1.RawValue{Tag: asn1.TagSequence, IsCompound: true, Bytes: rdns}))
	names = append(names, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 4, IsCompound: true, Bytes: name})
	for _, id := range identifiers {
		permanent := must(asn1.Marshal(struct {
			Value string `asn1:"utf8"`
		}{id}))
		wrapped := must(asn1.Marshal(asn1.RawValue{Class: asn1.ClassContextSpecific, IsCompound: true, Bytes: permanent}))
		other := append(must(asn1.Marshal(asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 8, 3})), wrapped...)
		names = append(names, asn1.RawValue{Class: asn1.ClassContextSpecific, IsCompound: true, Bytes: other})
	}
	return must(asn1.Marshal(names))
}

func newTPM() tpmDevice {
	key := newKey()
	x, y := key.X.FillBytes(make([]byte, 32)), key.Y.FillBytes(make([]byte, 32)) //nolint:staticcheck // a TPM speaks of points
	extra := sha256.Sum256([]byte(keyAuth))
	return tpmDevice{
		ak: must(rsa.GenerateKey(rand.Reader, 2048)), key: key, extra: extra[:], version: "2.0", algorithm: -257, hash: crypto.SHA256, by: newMaker(),
		usage: []asn1.ObjectIdentifier{{2, 23, 133, 8, 3}}, san: sanOf(3, device),
		area: tpm2.TPMTPublic{
			Type: tpm2.TPMAlgECC, NameAlg: tpm2.TPMAlgSHA256,
			ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, SignEncrypt: true, UserWithAuth: true},
			Parameters:       tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{CurveID: tpm2.TPMECCNistP256}),
			Unique:           tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{X: tpm2.TPM2BECCParameter{Buffer: x}, Y: tpm2.TPM2BECCParameter{Buffer: y}}),
		},
	}
}

func (d tpmDevice) info() []byte {
	name := d.name
	if name == nil {
		name = must(tpm2.ObjectName(&d.area)).Buffer
	}
	info := tpm2.TPMSAttest{
		Magic: tpm2.TPMGeneratedValue, Type: tpm2.TPMSTAttestCertify, ExtraData: tpm2.TPM2BData{Buffer: d.extra},
		Attested: tpm2.NewTPMUAttest(tpm2.TPMSTAttestCertify, &tpm2.TPMSCertifyInfo{Name: tpm2.TPM2BName{Buffer: name}}),
	}
	if d.quote {
		info.Type = tpm2.TPMSTAttestCreation
		info.Attested = tpm2.NewTPMUAttest(tpm2.TPMSTAttestCreation, &tpm2.TPMSCreationInfo{ObjectName: tpm2.TPM2BName{Buffer: name}})
	}
	return tpm2.Marshal(info)
}

func (d tpmDevice) statement(t *testing.T) map[string]any {
	t.Helper()
	info := d.info()
	sum := sha256.Sum256(info)
	digest, hash := sum[:], tpm2.TPMAlgSHA256
	if d.hash == crypto.SHA1 {
		weak := sha1.Sum(info) //nolint:gosec // what is refused
		digest, hash = weak[:], tpm2.TPMAlgSHA1
	}
	sig := tpm2.Marshal(tpm2.TPMTSignature{SigAlg: tpm2.TPMAlgRSASSA, Signature: tpm2.NewTPMUSignature(tpm2.TPMAlgRSASSA, &tpm2.TPMSSignatureRSA{
		Hash: hash, Sig: tpm2.TPM2BPublicKeyRSA{Buffer: must(rsa.SignPKCS1v15(rand.Reader, d.ak, d.hash, digest))},
	})})
	leaf := d.by.certify(d.ak.Public(), func(c *x509.Certificate) { c.Subject, c.UnknownExtKeyUsage = d.subject, d.usage },
		pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Critical: true, Value: d.san})
	s := map[string]any{"ver": d.version, "alg": d.algorithm, "x5c": [][]byte{leaf}, "sig": sig, "certInfo": info, "pubArea": tpm2.Marshal(d.area)}
	if d.tamper != nil {
		d.tamper(s)
	}
	return s
}

func TestTPMStatementCounts(t *testing.T) {
	for what, change := range map[string]func(*tpmDevice){
		"as it is":                   func(*tpmDevice) {},
		"one of several identifiers": func(d *tpmDevice) { d.san = sanOf(3, "other", device) },
	} {
		t.Run(what, func(t *testing.T) {
			d := newTPM()
			change(&d)
			seen, p := verifier(t, attest.TPM, d.by).Attest(check(t, object("tpm", d.statement(t))))
			accepted(t, seen, p, d.key.Public())
		})
	}
}

func TestTPMStatementIsRefused(t *testing.T) {
	for what, c := range map[string]struct {
		change func(*tpmDevice)
		word   string
	}{
		"without a permanent identifier": {func(d *tpmDevice) { d.san = sanOf(3) }, "no permanent identifier"},
		"of another device":              {func(d *tpmDevice) { d.san = sanOf(3, "other") }, "another device"},
		"without the TPM's version":      {func(d *tpmDevice) { d.san = sanOf(2, device) }, "manufacturer"},
		"with a subject":                 {func(d *tpmDevice) { d.subject = pkix.Name{CommonName: "x"} }, "subject"},
		"by a key not for attesting":     {func(d *tpmDevice) { d.usage = nil }, "not for that"},
		"of TPM 1.2":                     {func(d *tpmDevice) { d.version = "1.2" }, "2.0"},
		"of another key authorization":   {func(d *tpmDevice) { d.extra = make([]byte, 32) }, "key authorization"},
		"without a nonce":                {func(d *tpmDevice) { d.extra = nil }, "key authorization"},
		"of another key":                 {func(d *tpmDevice) { d.name = append([]byte{0, 11}, make([]byte, 32)...) }, "another key"},
		"of a key's creation":            {func(d *tpmDevice) { d.quote = true }, "does not certify"},
		"of a key that may leave":        {func(d *tpmDevice) { d.area.ObjectAttributes.FixedTPM = false }, "leave the TPM"},
		"of a key with a movable parent": {func(d *tpmDevice) { d.area.ObjectAttributes.FixedParent = false }, "leave the TPM"},
		"of a key made elsewhere":        {func(d *tpmDevice) { d.area.ObjectAttributes.SensitiveDataOrigin = false }, "not made there"},
		"with SHA-1":                     {func(d *tpmDevice) { d.hash, d.algorithm = crypto.SHA1, -65535 }, "SHA-256"},
		"by another algorithm's name":    {func(d *tpmDevice) { d.algorithm = -7 }, "signature"},
		"signed by another":              {func(d *tpmDevice) { d.tamper = func(s map[string]any) { s["sig"] = newTPM().statement(t)["sig"] } }, "signature"},
		"not of a TPM": {func(d *tpmDevice) {
			d.tamper = func(s map[string]any) { s["certInfo"] = []byte("\x00" + string(s["certInfo"].([]byte)[1:])) }
		}, "signature"},
		"without certInfo": {func(d *tpmDevice) { d.tamper = func(s map[string]any) { delete(s, "certInfo") } }, "signature"},
		"without pubArea":  {func(d *tpmDevice) { d.tamper = func(s map[string]any) { delete(s, "pubArea") } }, "TPMT_PUBLIC"},
		"with another pubArea": {func(d *tpmDevice) {
			d.tamper = func(s map[string]any) { o := newTPM(); s["pubArea"] = tpm2.Marshal(o.area) }
		}, "another key"},
		"with more after pubArea": {func(d *tpmDevice) {
			d.tamper = func(s map[string]any) { s["pubArea"] = append(s["pubArea"].([]byte), 0) }
		}, "TPMT_PUBLIC"},
		"with certificate as text": {func(d *tpmDevice) { d.tamper = func(s map[string]any) { s["x5c"] = []string{"x"} } }, "another type"},
	} {
		t.Run(what, func(t *testing.T) {
			d := newTPM()
			by := d.by
			c.change(&d)
			_, p := verifier(t, attest.TPM, by).Attest(check(t, object("tpm", d.statement(t))))
			refused(t, p, c.word)
		})
	}
}
