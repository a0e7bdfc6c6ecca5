package cert

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"

	"github.com/titanous/rocacheck"
)

// ErrBadKey is wrapped by every refusal of a public key.
var ErrBadKey = errors.New("public key refused")

// A KeyID is the SHA-256 of a SubjectPublicKeyInfo in DER: one key, one KeyID, whatever certificate carries it.
type KeyID [sha256.Size]byte

// String returns k in lower-case hex.
func (k KeyID) String() string { return hex.EncodeToString(k[:]) }

// KeyIDOf returns the KeyID of pub.
func KeyIDOf(pub crypto.PublicKey) (KeyID, error) {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return KeyID{}, fmt.Errorf("%w: encoding it: %w", ErrBadKey, err)
	}
	return sha256.Sum256(der), nil
}

// CheckKey refuses keys that must not be certified: the wrong type, too small, or breakable by a known construction
// fault (RFC 8555 §11.1; CA/Browser Forum Baseline Requirements §6.1.1.3 and §6.1.6).
func CheckKey(pub crypto.PublicKey) error {
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		return checkECDSA(k)
	case *rsa.PublicKey:
		return checkRSA(k)
	case ed25519.PublicKey:
		return checkEd25519(k)
	}
	return badKey("type %T: use ECDSA P-256 or P-384, Ed25519, or RSA of 2048 bits or more", pub)
}

func badKey(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrBadKey, fmt.Sprintf(format, args...))
}

func checkECDSA(k *ecdsa.PublicKey) error {
	if k.Curve != elliptic.P256() && k.Curve != elliptic.P384() {
		return badKey("curve: use P-256 or P-384 (RFC 5480 §2.1.1.1)")
	}
	if _, err := k.ECDH(); err != nil { // refuses points off the curve and at infinity (NIST SP 800-56A §5.6.2.3)
		return badKey("the point is not on the curve: make a new key")
	}
	return nil
}

// smallOrder lists every encoding of the points of small order on edwards25519, but for the sign of x in the last bit: those
// of RFC 8032 §5.1.2 and those that its decoders take besides, of y = p and y = p + 1. Anyone can forge under them.
var smallOrder = [][]byte{
	unhex("0000000000000000000000000000000000000000000000000000000000000000"),
	unhex("0100000000000000000000000000000000000000000000000000000000000000"),
	unhex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
	unhex("edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
	unhex("eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
	unhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"),
	unhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"),
}

func unhex(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic("cert: internal error: " + err.Error())
	}
	return b
}

func checkEd25519(k ed25519.PublicKey) error {
	if len(k) != ed25519.PublicKeySize {
		return badKey("Ed25519 key of %d octets: want 32 (RFC 8032 §5.1.5)", len(k))
	}
	y := bytes.Clone(k)
	y[len(y)-1] &= 0x7f
	for _, weak := range smallOrder {
		if bytes.Equal(y, weak) {
			return badKey("Ed25519 point of small order: make a new key")
		}
	}
	return nil
}

// RSA bounds. Above 4096 bits a key buys no security that P-384 does not, and verifying it is a way to load the service.
const (
	minRSABits    = 2048
	maxRSABits    = 4096
	fermatRounds  = 110 // as public CAs do since CVE-2022-26320
	minRSAExp     = 65537
	smallPrimesTo = 752
)

func checkRSA(k *rsa.PublicKey) error {
	bits := k.N.BitLen()
	switch {
	case bits < minRSABits || bits > maxRSABits:
		return badKey("RSA of %d bits: use 2048 to 4096, or ECDSA P-256", bits)
	case bits%8 != 0:
		return badKey("RSA of %d bits: the size must be a multiple of 8 (BR §6.1.6)", bits)
	case k.E%2 == 0 || k.E < minRSAExp:
		return badKey("RSA exponent %d: use 65537 (BR §6.1.6)", k.E)
	case k.N.Bit(0) == 0 || new(big.Int).GCD(nil, nil, k.N, primorial).Cmp(one) != 0:
		return badKey("RSA modulus has a small factor: make a new key (BR §6.1.6)")
	case rocacheck.IsWeak(k):
		return badKey("RSA key has the ROCA fingerprint (CVE-2017-15361): make a new key with other software")
	case closePrimes(k.N):
		return badKey("RSA primes are too close together (CVE-2022-26320): make a new key with other software")
	}
	return nil
}

var (
	one       = big.NewInt(1)
	primorial = productOfPrimes(smallPrimesTo)
)

// productOfPrimes multiplies the primes below n, the set of BR §6.1.6.
func productOfPrimes(n int64) *big.Int {
	p := big.NewInt(1)
	for i := int64(3); i < n; i++ {
		if c := big.NewInt(i); c.ProbablyPrime(20) {
			p.Mul(p, c)
		}
	}
	return p
}

// closePrimes runs Fermat's factorization: it finds p and q if they differ by little.
func closePrimes(n *big.Int) bool {
	a := new(big.Int).Sqrt(n)
	if new(big.Int).Mul(a, a).Cmp(n) == 0 {
		return true
	}
	b2, b := new(big.Int), new(big.Int)
	for range fermatRounds {
		a.Add(a, one)
		b2.Sub(b2.Mul(a, a), n)
		if b.Sqrt(b2); b.Mul(b, b).Cmp(b2) == 0 {
			return true
		}
	}
	return false
}
