package softkms

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/pbkdf2"
	"crypto/sha256"

	"codeberg.org/dataverket/segl/kms"
)

// iterations is what OWASP's Password Storage Cheat Sheet (2023) asks of PBKDF2-HMAC-SHA-256; NIST SP 800-132 §5.2: "as
// large as can be tolerated". A database remembers its own count, so that this one may grow.
const (
	iterations    = 600_000
	minIterations = 1_000      // NIST SP 800-132 §5.2
	maxIterations = 10_000_000 // seconds: a row that asks for more is not ours
	saltSize      = 16         // NIST SP 800-132 §5.1: at least 128 bits
	keySize       = 32         // AES-256
)

// A box is what the passphrase gives: three keys that know nothing of one another (RFC 5869 §3.2, info).
type box struct{ proof, keys, secrets sealer }

// derive turns a passphrase into a box. It is slow on purpose.
func derive(p Passphrase, salt []byte, iterations int) (box, error) {
	kek, err := pbkdf2.Key(sha256.New, p.Reveal(), salt, iterations, keySize)
	if err != nil {
		return box{}, err
	}
	var b box
	for info, s := range map[string]*sealer{
		"segl softkms proof 1": &b.proof, "segl softkms key 1": &b.keys, "segl softkms secret 1": &b.secrets,
	} {
		sub, err := hkdf.Expand(sha256.New, kek, info, keySize)
		if err != nil {
			return box{}, err
		}
		if *s, err = newSealer(sub); err != nil {
			return box{}, err
		}
	}
	return b, nil
}

// sealedFormat is the first octet of everything sealed; nonce, ciphertext and tag follow.
const sealedFormat = 0x01

// A sealer is AES-256-GCM under random nonces, good for 2^32 messages a key (NIST SP 800-38D §8.3): more than there will be
// keys and site files. Its key is out of fmt's sight, in a closure.
type sealer struct{ aead func() cipher.AEAD }

func newSealer(key []byte) (sealer, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return sealer{}, err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	return sealer{func() cipher.AEAD { return aead }}, err
}

func (s sealer) seal(purpose string, plaintext []byte) []byte {
	return s.aead().Seal([]byte{sealedFormat}, nil, plaintext, []byte(purpose))
}

func (s sealer) open(purpose string, sealed []byte) ([]byte, error) {
	if len(sealed) == 0 || sealed[0] != sealedFormat {
		return nil, kms.ErrSealed
	}
	plaintext, err := s.aead().Open(nil, nil, sealed[1:], []byte(purpose))
	if err != nil {
		return nil, kms.ErrSealed
	}
	return plaintext, nil
}
