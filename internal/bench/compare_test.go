package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func ours() row {
	return row{operation{kind: kindIssue}, outcome{Done: 100, Elapsed: time.Second}, usage{100 * time.Millisecond, 100 * time.Millisecond}, 0}
}

func theirs() row {
	op := operation{kind: kindPeerSign, beside: kindIssue}
	return row{op, outcome{Done: 10, Elapsed: time.Second}, usage{50 * time.Millisecond, 40 * time.Millisecond}, 0}
}

func TestRatiosAreOfOneOperation(t *testing.T) {
	p := page{rows: []row{ours(), theirs()}, Unit: time.Millisecond}
	if got := p.Lines(); len(got) != 1 {
		t.Errorf("ours: got %d lines, want 1", len(got))
	}
	got := p.Peers()
	if len(got) != 1 || got[0].CPU != "1 : 4.5" || got[0].Rates != "10.0 : 1" {
		t.Errorf("got %+v", got)
	}
}

func TestNothingIsComparedWithWhatWasNotMeasured(t *testing.T) {
	absent := theirs()
	absent.outcome = outcome{Absent: errNoPeer.Error()}
	alone := page{rows: []row{theirs()}, Unit: time.Millisecond}
	for name, p := range map[string]page{"theirs": {rows: []row{ours(), absent}, Unit: time.Millisecond}, "ours": alone} {
		got := p.Peers()
		if len(got) != 1 || got[0].CPU != "" || got[0].Rates != "" {
			t.Errorf("without %s: got %+v", name, got)
		}
		if told := strings.HasPrefix(got[0].Note, "not measured: step-ca"); told != (name == "theirs") {
			t.Errorf("without %s: the note is %q", name, got[0].Note)
		}
	}
}

func TestTokensAreSignedAndUsedOnce(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s := spec{Env: map[string]string{envIssuer: "bench", envKeyID: "k", "SEGL_URL": "https://127.0.0.1:1"}}
	now := time.Unix(1_800_000_000, 0)
	token, err := s.token(key, "a.test", now)
	if err != nil {
		t.Fatal(err)
	}
	said, sig := token[:strings.LastIndexByte(token, '.')], token[strings.LastIndexByte(token, '.')+1:]
	raw, err := base64.RawURLEncoding.DecodeString(sig)
	if err != nil || len(raw) != 64 {
		t.Fatalf("signature of %d octets, %v", len(raw), err)
	}
	digest := sha256.Sum256([]byte(said))
	if !ecdsa.Verify(&key.PublicKey, digest[:], new(big.Int).SetBytes(raw[:32]), new(big.Int).SetBytes(raw[32:])) {
		t.Error("the signature is not of the token")
	}
	if again, err := s.token(key, "a.test", now); err != nil || strings.HasPrefix(again, said) {
		t.Errorf("two tokens of one name at one time say the same, or %v", err)
	}
}

func TestPageTellsTheRatios(t *testing.T) {
	p := page{rows: []row{ours(), theirs()}}
	p.end([]time.Duration{time.Millisecond})
	file := filepath.Join(t.TempDir(), "page.md")
	if err := p.write(file); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if want := "| 9.00 | 5.00 | 4.00 | 10 | 0.00 | 0.00 | 0.00 |  | 1 : 4.5 | 10.0 : 1 |  |"; !strings.Contains(string(text), want) {
		t.Errorf("the page lacks %q:\n%s", want, text)
	}
}
