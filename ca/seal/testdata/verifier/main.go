// Command verifier checks offline that a certificate is in a ledger, as docs/ledger-proof.md tells anybody to. It is written
// from that page and the specifications it names, with the standard library alone: it shares no code with the program.
//
//	verifier KEY CERTIFICATE PROOF
package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"strconv"
	"strings"
)

func main() {
	if len(os.Args) != 4 {
		die("usage: verifier KEY CERTIFICATE PROOF")
	}
	certificate, err := os.ReadFile(os.Args[2])
	check(err)
	proof, err := os.ReadFile(os.Args[3])
	check(err)
	block, _ := pem.Decode(certificate)
	if block == nil {
		die("no certificate")
	}
	leaf, index, path, checkpoint := parse(string(proof))
	size, root := open(os.Args[1], checkpoint)
	if got := climb(leaf, index, size, path); !bytes.Equal(got, root) {
		die("the path does not lead to the root")
	}
	says(leaf, block.Bytes)
	fmt.Println("good")
}

// says sees that the leaf is about that certificate.
func says(leaf, der []byte) {
	var fact struct {
		Type, What  string
		Allowed     bool
		Certificate struct{ SHA256 string }
	}
	check(json.Unmarshal(leaf, &fact))
	sum := sha256.Sum256(der)
	switch {
	case fact.Type != "segl-fact/v1":
		die("another kind of leaf")
	case !fact.Allowed || fact.What != "certificate.issue" && fact.What != "certificate.renew":
		die("the leaf does not say that anything was issued")
	case fact.Certificate.SHA256 != hex.EncodeToString(sum[:]):
		die("the leaf is about another certificate")
	}
}

// parse reads C2SP tlog-proof.
func parse(proof string) (leaf []byte, index uint64, path [][]byte, checkpoint string) {
	head, checkpoint, ok := strings.Cut(proof, "\n\n")
	lines := strings.Split(head, "\n")
	if !ok || len(lines) < 3 || lines[0] != "c2sp.org/tlog-proof@v1" || !strings.HasPrefix(lines[1], "extra ") || !strings.HasPrefix(lines[2], "index ") {
		die("no proof")
	}
	leaf = decode(lines[1][len("extra "):])
	index, err := strconv.ParseUint(lines[2][len("index "):], 10, 63)
	check(err)
	for _, l := range lines[3:] {
		path = append(path, decode(l))
	}
	return leaf, index, path, checkpoint
}

// open verifies a C2SP signed-note with a checkpoint in it.
func open(key, signed string) (size uint64, root []byte) {
	parts := strings.SplitN(key, "+", 3)
	if len(parts) != 3 {
		die("no key")
	}
	name, id, public := parts[0], parts[1], decode(parts[2])
	if len(public) != 33 || public[0] != 1 {
		die("no Ed25519 key")
	}
	sum := sha256.Sum256([]byte(name + "\n" + string(public)))
	if hex.EncodeToString(sum[:4]) != id {
		die("the key's ID is wrong")
	}
	text, signatures, ok := strings.Cut(signed, "\n\n")
	if !ok {
		die("no signature")
	}
	text += "\n"
	verified := false
	for _, line := range strings.Split(strings.TrimSuffix(signatures, "\n"), "\n") {
		encoded, ours := strings.CutPrefix(line, "— "+name+" ")
		if !ours {
			continue
		}
		if s := decode(encoded); len(s) == 68 && bytes.Equal(s[:4], sum[:4]) {
			if !ed25519.Verify(public[1:], []byte(text), s[4:]) {
				die("the signature is wrong")
			}
			verified = true
		}
	}
	lines := strings.Split(text, "\n")
	if !verified || len(lines) < 4 || lines[0] != name {
		die("the key did not sign this checkpoint")
	}
	size, err := strconv.ParseUint(lines[1], 10, 63)
	check(err)
	return size, decode(lines[2])
}

// climb is RFC 9162 §2.1.3.2.
func climb(leaf []byte, index, size uint64, path [][]byte) []byte {
	if index >= size {
		die("the leaf is not in the tree")
	}
	fn, sn := index, size-1
	r := hash([]byte{0}, leaf)
	for _, p := range path {
		if sn == 0 {
			die("the path is too long")
		}
		if fn&1 == 1 || fn == sn {
			r = hash([]byte{1}, p, r)
			for fn&1 == 0 && fn != 0 {
				fn, sn = fn>>1, sn>>1
			}
		} else {
			r = hash([]byte{1}, r, p)
		}
		fn, sn = fn>>1, sn>>1
	}
	if sn != 0 {
		die("the path is too short")
	}
	return r
}

func hash(parts ...[]byte) []byte {
	h := sha256.New()
	for _, p := range parts {
		h.Write(p)
	}
	return h.Sum(nil)
}

func decode(s string) []byte {
	b, err := base64.StdEncoding.DecodeString(s)
	check(err)
	return b
}

func check(err error) {
	if err != nil {
		die(err.Error())
	}
}

func die(why string) {
	fmt.Fprintln(os.Stderr, why)
	os.Exit(1)
}
