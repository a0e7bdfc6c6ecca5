package postgres

import (
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
)

// iterations is what PostgreSQL's own clients use (scram_iterations). Our passwords have 256 random bits: no number of
// iterations makes them any harder to guess.
const iterations = 4096

const saltSize = 16

// verifier returns what a server keeps of a password (RFC 5803 §3, as PostgreSQL spells it), made with a fresh salt:
//
//	SaltedPassword := Hi(Normalize(password), salt, i)          (RFC 5802 §3; SHA-256: RFC 7677)
//	ClientKey      := HMAC(SaltedPassword, "Client Key")
//	StoredKey      := H(ClientKey)
//	ServerKey      := HMAC(SaltedPassword, "Server Key")
//
// Our passwords are ASCII letters and digits, which SASLprep (RFC 4013) leaves as they are.
func verifier(password string) (string, error) {
	salt := make([]byte, saltSize)
	rand.Read(salt) //nolint:errcheck // never fails since Go 1.24
	return verifierOf(password, salt, iterations)
}

func verifierOf(password string, salt []byte, count int) (string, error) {
	salted, err := pbkdf2.Key(sha256.New, password, salt, count, sha256.Size)
	if err != nil {
		return "", fmt.Errorf("deriving a verifier: %w", err)
	}
	stored := sha256.Sum256(keyed(salted, "Client Key"))
	b64 := base64.StdEncoding.EncodeToString
	return fmt.Sprintf("SCRAM-SHA-256$%d:%s$%s:%s", count, b64(salt), b64(stored[:]), b64(keyed(salted, "Server Key"))), nil
}

func keyed(key []byte, word string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(word))
	return h.Sum(nil)
}
