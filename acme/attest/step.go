package attest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"

	"github.com/fxamacker/cbor/v2"
)

// Extensions of certificates that attest in smallstep's form.
var (
	oidYubicoSerial = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 41482, 3, 7}        // PIV attestation: INTEGER
	oidStepDevice   = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 37476, 9000, 64, 4} // SEQUENCE { deviceID UTF8String }
)

// step reads a statement in smallstep's form: the certificate attests the key it is for, and that key signs the key
// authorization, which is what makes the statement fresh.
func step(s statement) (finding, error) {
	leaf := s.certificates[0]
	var sig []byte // in CBOR once more (WebAuthn §6.5.6)
	if err := cbor.Unmarshal(s.body.Signature, &sig); err != nil || len(sig) == 0 {
		return finding{}, errors.New("it has no signature of the key authorization")
	}
	if err := verify(leaf.PublicKey, []byte(s.keyAuth), sig); err != nil {
		return finding{}, err
	}
	f := finding{spki: leaf.RawSubjectPublicKeyInfo}
	if raw, ok := value(leaf, oidYubicoSerial); ok {
		var serial *big.Int
		if rest, err := asn1.Unmarshal(raw, &serial); err != nil || len(rest) > 0 || serial.Sign() < 0 {
			return finding{}, errors.New("its serial number cannot be read")
		}
		f.identifiers = append(f.identifiers, serial.String())
	}
	if raw, ok := value(leaf, oidStepDevice); ok {
		var device struct{ ID string }
		if rest, err := asn1.Unmarshal(raw, &device); err != nil || len(rest) > 0 || device.ID == "" {
			return finding{}, errors.New("its device identifier cannot be read")
		}
		f.identifiers = append(f.identifiers, device.ID)
	}
	return f, nil
}

// verify checks a signature over message with SHA-256.
func verify(key crypto.PublicKey, message, sig []byte) error {
	sum := sha256.Sum256(message)
	good := false
	switch key := key.(type) {
	case *ecdsa.PublicKey:
		good = ecdsa.VerifyASN1(key, sum[:], sig)
	case *rsa.PublicKey:
		good = rsa.VerifyPKCS1v15(key, crypto.SHA256, sum[:], sig) == nil
	case ed25519.PublicKey:
		good = ed25519.Verify(key, message, sig)
	default:
		return fmt.Errorf("keys of type %T are not taken", key)
	}
	if !good {
		return errors.New("its signature is not of this challenge's key authorization")
	}
	return nil
}
