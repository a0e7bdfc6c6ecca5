package attest

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"slices"

	"github.com/google/go-tpm/tpm2"
)

// COSE algorithms that statements may be signed by (RFC 9053 §2.1, RFC 8812 §2). RS1 is not: SHA-1 is broken.
const (
	algES256 = -7
	algRS256 = -257
)

const maxTPM = 4 << 10 // of one structure

// tpm reads a statement of a TPM (WebAuthn §8.3). The certificate is that of the key that attests (the AK); what it attests
// stands in pubArea, that it does in certInfo, and that certInfo is fresh in its extraData: the SHA-256 of the key
// authorization.
func tpm(s statement) (finding, error) {
	if s.body.Version != "2.0" {
		return finding{}, errors.New(`its "ver" is not 2.0 (WebAuthn §8.3)`)
	}
	ak := s.certificates[0]
	names, err := readAK(ak)
	if err != nil {
		return finding{}, err
	}
	if err := checkTPMSignature(ak.PublicKey, s.body); err != nil {
		return finding{}, err
	}
	want := sha256.Sum256([]byte(s.keyAuth))
	public, err := certified(s.body, want[:])
	if err != nil {
		return finding{}, err
	}
	spki, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return finding{}, errors.New("the key in its pubArea is of no kind that certificates have")
	}
	return finding{identifiers: names, spki: spki}, nil
}

// certified returns the key that certInfo attests, which is the one of pubArea, made in the TPM and bound to it.
func certified(b body, extra []byte) (crypto.PublicKey, error) {
	if len(b.CertInfo) > maxTPM || len(b.PubArea) > maxTPM {
		return nil, errors.New("its certInfo or pubArea is too long")
	}
	info, err := tpm2.Unmarshal[tpm2.TPMSAttest](b.CertInfo)
	if err != nil || !bytes.Equal(tpm2.Marshal(info), b.CertInfo) { // nothing may follow it
		return nil, errors.New("its certInfo is not a TPMS_ATTEST")
	}
	certify, err := info.Attested.Certify()
	if err != nil { // magic is checked by the parser: only a TPM writes TPM_GENERATED_VALUE before what it signs
		return nil, errors.New("its certInfo does not certify a key (WebAuthn §8.3)")
	}
	if subtle.ConstantTimeCompare(info.ExtraData.Buffer, extra) != 1 {
		return nil, errors.New("its certInfo is not of this challenge's key authorization")
	}
	area, err := tpm2.Unmarshal[tpm2.TPMTPublic](b.PubArea)
	if err != nil || !bytes.Equal(tpm2.Marshal(area), b.PubArea) {
		return nil, errors.New("its pubArea is not a TPMT_PUBLIC")
	}
	name, err := tpm2.ObjectName(area)
	if err != nil || !bytes.Equal(name.Buffer, certify.Name.Buffer) {
		return nil, errors.New("its certInfo certifies another key than its pubArea has")
	}
	if a := area.ObjectAttributes; !a.FixedTPM || !a.FixedParent || !a.SensitiveDataOrigin {
		return nil, errors.New("the key can leave the TPM, or was not made there")
	}
	key, err := tpm2.Pub(*area)
	if err != nil {
		return nil, errors.New("the key in its pubArea cannot be read")
	}
	return key, nil
}

// checkTPMSignature verifies sig, a TPMT_SIGNATURE, over certInfo.
func checkTPMSignature(ak crypto.PublicKey, b body) error {
	if len(b.Signature) > maxTPM {
		return errors.New("its signature is too long")
	}
	sig, err := tpm2.Unmarshal[tpm2.TPMTSignature](b.Signature)
	if err != nil {
		return errors.New("its signature is not a TPMT_SIGNATURE")
	}
	sum := sha256.Sum256(b.CertInfo)
	bad := errors.New("its signature is not the attesting key's, over certInfo with SHA-256")
	switch key := ak.(type) {
	case *rsa.PublicKey:
		r, err := sig.Signature.RSASSA()
		if err != nil || b.Algorithm != algRS256 || r.Hash != tpm2.TPMAlgSHA256 || rsa.VerifyPKCS1v15(key, crypto.SHA256, sum[:], r.Sig.Buffer) != nil {
			return bad
		}
	case *ecdsa.PublicKey:
		e, err := sig.Signature.ECDSA()
		if err != nil || b.Algorithm != algES256 || e.Hash != tpm2.TPMAlgSHA256 ||
			!ecdsa.Verify(key, sum[:], new(big.Int).SetBytes(e.SignatureR.Buffer), new(big.Int).SetBytes(e.SignatureS.Buffer)) {
			return bad
		}
	default:
		return fmt.Errorf("attesting keys of type %T are not taken", ak)
	}
	return nil
}

var (
	oidSAN             = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidAIK             = asn1.ObjectIdentifier{2, 23, 133, 8, 3} // tcg-kp-AIKCertificate
	oidTPMManufacturer = asn1.ObjectIdentifier{2, 23, 133, 2, 1}
	oidTPMModel        = asn1.ObjectIdentifier{2, 23, 133, 2, 2}
	oidTPMVersion      = asn1.ObjectIdentifier{2, 23, 133, 2, 3}
)

// readAK wants what WebAuthn §8.3.1 wants of the attesting key's certificate, and returns the permanent identifiers in it.
// One without any is no statement about a device.
func readAK(c *x509.Certificate) ([]string, error) {
	// "Subject field MUST be set to empty."
	if c.Version != 3 || !bytes.Equal(c.RawSubject, []byte{0x30, 0}) {
		return nil, errors.New("the attesting key's certificate has a subject, or is not of version 3 (WebAuthn §8.3.1)")
	}
	// "The Extended Key Usage extension MUST contain the OID 2.23.133.8.3".
	if !slices.ContainsFunc(c.UnknownExtKeyUsage, oidAIK.Equal) {
		return nil, errors.New("the attesting key's certificate is not for that (WebAuthn §8.3.1)")
	}
	san, ok := value(c, oidSAN)
	if !ok {
		return nil, errors.New("the attesting key's certificate has no subjectAltName (WebAuthn §8.3.1)")
	}
	names, attributes, err := readSAN(san)
	if err != nil {
		return nil, err
	}
	for _, want := range []asn1.ObjectIdentifier{oidTPMManufacturer, oidTPMModel, oidTPMVersion} {
		if !slices.ContainsFunc(attributes, want.Equal) {
			return nil, errors.New("the attesting key's certificate does not name the TPM's manufacturer, model and version (WebAuthn §8.3.1)")
		}
	}
	if len(names) == 0 {
		return nil, errors.New("the attesting key's certificate has no permanent identifier (RFC 4043)")
	}
	return names, nil
}
