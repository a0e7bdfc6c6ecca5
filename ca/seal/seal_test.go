package seal_test

import (
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"codeberg.org/dataverket/segl/ca/seal"
	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/kms"
	"codeberg.org/dataverket/segl/kms/kmstest"
)

func ptr(s string) *string { return &s }

func serial(t *testing.T) cert.Serial {
	t.Helper()
	s, err := cert.ParseSerial("10016923fa00000102030405060708090a0b")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func full(t *testing.T) seal.Row {
	t.Helper()
	at := time.Date(2026, 2, 3, 4, 5, 6, 7000, time.UTC)
	return seal.Row{
		Position: audit.Position{Transaction: 12, ID: 34}, At: at, Scope: ptr("demo/shop"), Allowed: true, What: "certificate.abandon",
		Actor: "spiffe://segl.test/tenant/demo/å", Act: ptr("\"\\\b\f\n\r\t\x01\x7f"), Serial: serial(t), Subject: ptr(""), Why: ptr("w"),
		Request: ptr("r"),
		Certificate: &seal.Certificate{
			Serial: serial(t), Authority: "server-1-1", Scope: "demo", Profile: "server", NotAfter: at, Origin: []byte{1, 2}, TBS: []byte("tbs"), At: &at,
		},
		Revocation: &seal.Revocation{Serial: serial(t), Authority: "server-1-1", Scope: "demo", At: at, Reason: 5},
	}
}

// These octets are for ever: whoever kept a proof has them.
func TestLeafIsTheseOctets(t *testing.T) {
	const want = `{"act":"\"\\\b\f\n\r\t\u0001` + "\x7f" + `","actor":"spiffe://segl.test/tenant/demo/å","allowed":true,"at":"2026-02-03T04:05:06.000007Z",` +
		`"certificate":{"authority":"server-1-1","ended_at":"2026-02-03T04:05:06.000007Z","not_after":"2026-02-03T04:05:06.000007Z","origin":"0102",` +
		`"profile":"server","scope":"demo","tbs_sha256":"3595d0af0f0ba42721b917ff183f98a4f8208bee7c84efa02badb2d41e22d69f"},"position":"12.34","request":"r",` +
		`"revocation":{"at":"2026-02-03T04:05:06.000007Z","authority":"server-1-1","reason":5,"scope":"demo"},"scope":"demo/shop",` +
		`"serial":"10016923fa00000102030405060708090a0b","subject":"","type":"segl-fact/v1","what":"certificate.abandon","why":"w"}`
	if got := string(seal.Leaf(full(t))); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	bare := seal.Row{At: time.Unix(0, 0), What: "x"}
	if got := string(seal.Leaf(bare)); got != `{"actor":"","allowed":false,"at":"1970-01-01T00:00:00.000000Z","position":"0.0","type":"segl-fact/v1","what":"x"}` {
		t.Errorf("got %s", got)
	}
}

// RFC 8785 is JSON, sorted: the standard library's reader and writer agree with ours, but for escapes it adds for HTML.
func FuzzLeafIsCanonicalJSON(f *testing.F) {
	for _, s := range []string{"", "a", "\x00\x1f", "\u2028", "å", "\U0001f600", `"\`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r := full(t)
		r.Act = ptr(strings.ToValidUTF8(s, "\uFFFD"))
		r.Actor = *r.Act
		var read map[string]any
		if err := json.Unmarshal(seal.Leaf(r), &read); err != nil {
			t.Fatal(err)
		}
		if read["act"] != *r.Act || read["actor"] != r.Actor {
			t.Errorf("%q was read back as %q", s, read["act"])
		}
	})
}

func TestEveryColumnChangesTheLeaf(t *testing.T) {
	was := seal.LeafHash(full(t))
	other, err := cert.ParseSerial("10016923fa00000102030405060708090a0c")
	if err != nil {
		t.Fatal(err)
	}
	for name, edit := range map[string]func(*seal.Row){
		"xid": func(r *seal.Row) { r.Position.Transaction++ }, "id": func(r *seal.Row) { r.Position.ID++ },
		"at": func(r *seal.Row) { r.At = r.At.Add(time.Microsecond) }, "scope": func(r *seal.Row) { r.Scope = ptr("demo") },
		"no scope": func(r *seal.Row) { r.Scope = nil }, "allowed": func(r *seal.Row) { r.Allowed = false },
		"what": func(r *seal.Row) { r.What = "other" }, "actor": func(r *seal.Row) { r.Actor = "x" }, "act": func(r *seal.Row) { r.Act = nil },
		"serial": func(r *seal.Row) { r.Serial = other }, "no serial": func(r *seal.Row) { r.Serial = cert.Serial{} },
		"subject NULL": func(r *seal.Row) { r.Subject = nil }, "why": func(r *seal.Row) { r.Why = ptr("") }, "request": func(r *seal.Row) { r.Request = nil },
		"no certificate": func(r *seal.Row) { r.Certificate = nil }, "authority": func(r *seal.Row) { r.Certificate.Authority = "x" },
		"certificate's scope": func(r *seal.Row) { r.Certificate.Scope = "x" }, "profile": func(r *seal.Row) { r.Certificate.Profile = "x" },
		"not after": func(r *seal.Row) { r.Certificate.NotAfter = time.Time{} }, "origin": func(r *seal.Row) { r.Certificate.Origin = nil },
		"bytes": func(r *seal.Row) { r.Certificate.TBS = []byte("tbt") }, "outcome": func(r *seal.Row) { r.Certificate.At = nil },
		"no revocation": func(r *seal.Row) { r.Revocation = nil }, "reason": func(r *seal.Row) { r.Revocation.Reason = 1 },
		"revoked at": func(r *seal.Row) { r.Revocation.At = time.Time{} }, "revoked by": func(r *seal.Row) { r.Revocation.Authority = "x" },
		"revoked in": func(r *seal.Row) { r.Revocation.Scope = "x" },
	} {
		r := full(t)
		edit(&r)
		if seal.LeafHash(r) == was {
			t.Errorf("%s: the leaf is the same", name)
		}
	}
}

func TestNoCertificateIsMadeOfOtherBytes(t *testing.T) {
	for name, c := range map[string]struct{ tbs, signature []byte }{
		"nothing": {nil, []byte{1}}, "no signature": {unhex("3009a003020102020101" + "3000"), nil}, "no sequence": {[]byte("tbs"), []byte{1}},
		"no version": {unhex("3003020101"), []byte{1}}, "no algorithm": {unhex("3008a003020102020101"), []byte{1}},
	} {
		if der, err := seal.DER(c.tbs, c.signature); err == nil {
			t.Errorf("%s: %x", name, der)
		}
	}
}

func unhex(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return b
}

// The other implementation is golang.org/x/mod/sumdb/tlog's, over a list of all hashes.
func TestEdgeIsTheTreeOfRFC6962(t *testing.T) {
	var all []tlog.Hash
	read := tlog.HashReaderFunc(func(at []int64) ([]tlog.Hash, error) {
		var out []tlog.Hash
		for _, i := range at {
			out = append(out, all[i])
		}
		return out, nil
	})
	var e seal.Edge
	tiles := map[tlog.Tile][]byte{}
	const most = 256*256 + 700
	for n := int64(0); n < most; n++ {
		leaf := tlog.RecordHash([]byte{byte(n), byte(n >> 8), byte(n >> 16)})
		more, err := tlog.StoredHashesForRecordHash(n, leaf, read)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, more...)
		e.Append(n, leaf, func(level int, n int64, hashes []byte) { tiles[tlog.Tile{H: 8, L: level, N: n, W: 256}] = hashes })
		if size := n + 1; size < 600 || size%997 == 0 || size > most-3 {
			want, err := tlog.TreeHash(size, read)
			if err != nil || e.Root() != want {
				t.Fatalf("the root of %d leaves is %s, want %s (%v)", size, e.Root(), want, err)
			}
			again, err := seal.ParseEdge(size, e.Bytes())
			if err != nil || again.Root() != want {
				t.Fatalf("of %d leaves, read back: %v", size, err)
			}
		}
	}
	for tile, got := range tiles {
		if want, err := tlog.ReadTileData(tile, read); err != nil || string(want) != string(got) {
			t.Fatalf("tile %v differs (%v)", tile, err)
		}
	}
	if len(tiles) != 256+2+1 {
		t.Errorf("%d tiles are complete", len(tiles))
	}
}

func TestParseEdgeRefusesAnotherLength(t *testing.T) {
	for size, octets := range map[int64]int{0: 1, 1: 31, 2: 96, 256: 0, 257: 32, 258: 97} {
		if _, err := seal.ParseEdge(size, make([]byte, octets)); err == nil {
			t.Errorf("took %d octets for %d leaves", octets, size)
		}
	}
}

func newLog(t *testing.T, base string) seal.Log {
	t.Helper()
	key, err := kmstest.NewKeyring().Create(t.Context(), "ledger", kms.Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	l, err := seal.NewLog(base, key)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestALogTakesOnlyKeysThatWitnessesKnow(t *testing.T) {
	key, err := kmstest.NewKeyring().Create(t.Context(), "ledger", kms.P256)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := seal.NewLog("segl.test/ledger/1", key); err == nil || !strings.Contains(err.Error(), "ed25519") {
		t.Errorf("%v, want ed25519 asked for", err)
	}
	key, err = kmstest.NewKeyring().Create(t.Context(), "ledger", kms.Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"", "a b", "a+b", "a\nb"} {
		if _, err := seal.NewLog(name, key); err == nil {
			t.Errorf("took the origin %q", name)
		}
	}
}

func TestOpenRefusesCheckpointsThatAreNotTheLogs(t *testing.T) {
	log, other := newLog(t, "segl.test/ledger/1"), newLog(t, "segl.test/ledger/1")
	sign := func(l seal.Log, era int) string {
		s, err := l.Sign(t.Context(), era, 3, tlog.Hash{1})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	good := sign(log, 1)
	c, era, err := log.Open(0, good)
	if err != nil || era != 1 || c.Size != 3 || c.Root != (tlog.Hash{1}) || c.Origin != "segl.test/ledger/1" {
		t.Fatalf("%+v, era %d, %v", c, era, err)
	}
	if _, era, err := log.Open(0, sign(log, 7)); err != nil || era != 7 {
		t.Errorf("of a later era: %d, %v", era, err)
	}
	foreign := newLog(t, "elsewhere.test")
	for name, s := range map[string]string{
		"another's key": sign(other, 1), "another's name": sign(foreign, 1), "altered size": strings.Replace(good, "\n3\n", "\n4\n", 1),
		"no signature": good[:strings.Index(good, "—")], "nothing": "", "cut": good[:len(good)-9],
		"era 1 spelt out": strings.Replace(good, "ledger/1\n", "ledger/1/era1\n", 1), "era 0": strings.Replace(good, "ledger/1\n", "ledger/1/era0\n", 1),
		"another era's text": strings.Replace(good, "ledger/1\n", "ledger/1/era2\n", 1),
	} {
		if _, _, err := log.Open(0, s); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	if _, _, err := log.Open(2, good); err == nil {
		t.Error("took a checkpoint of era 1 for one of era 2")
	}
}

func FuzzParseCheckpoint(f *testing.F) {
	good := seal.Checkpoint{Origin: "o", Size: 12, Rest: "ext\n"}.Text()
	for _, s := range []string{good, "", "o\n1\n", "o\n01\n" + strings.Repeat("A", 43) + "=\n", strings.TrimSuffix(good, "\n")} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if c, err := seal.ParseCheckpoint(s); err == nil && c.Text() != s {
			t.Errorf("%q has another spelling, %q", s, c.Text())
		}
	})
}

func FuzzParseProof(f *testing.F) {
	good := seal.Proof{Leaf: []byte("leaf"), Index: 3, Path: tlog.RecordProof{{1}, {2}}, Checkpoint: "o\n4\nx\n\n— s\n"}.String()
	for _, s := range []string{good, "", strings.Replace(good, "index 3", "index 03", 1), strings.Replace(good, "extra", "extras", 1)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if p, err := seal.ParseProof(s); err == nil && p.String() != s {
			t.Errorf("%q has another spelling, %q", s, p.String())
		}
	})
}

func TestProofsThatDoNotHoldAreRefused(t *testing.T) {
	log := newLog(t, "segl.test/ledger/1")
	leaves := [][]byte{[]byte("a"), []byte("b"), []byte("c")}
	h := func(i int) tlog.Hash { return tlog.RecordHash(leaves[i]) }
	root := tlog.NodeHash(tlog.NodeHash(h(0), h(1)), h(2))
	signed, err := log.Sign(t.Context(), 1, 3, root)
	if err != nil {
		t.Fatal(err)
	}
	good := func() seal.Proof {
		return seal.Proof{Leaf: leaves[0], Index: 0, Path: tlog.RecordProof{h(1), h(2)}, Checkpoint: signed}
	}
	if _, err := good().Check(log); err != nil {
		t.Fatal(err)
	}
	for name, edit := range map[string]func(*seal.Proof){
		"another leaf": func(p *seal.Proof) { p.Leaf = []byte("x") }, "another index": func(p *seal.Proof) { p.Index = 1 },
		"beyond the tree": func(p *seal.Proof) { p.Index = 3 }, "path cut": func(p *seal.Proof) { p.Path = p.Path[:1] },
		"path longer": func(p *seal.Proof) { p.Path = append(p.Path, h(0)) }, "path altered": func(p *seal.Proof) { p.Path[0][0] ^= 1 },
		"checkpoint altered": func(p *seal.Proof) { p.Checkpoint = strings.Replace(p.Checkpoint, "\n3\n", "\n2\n", 1) },
	} {
		p := good()
		p.Path = append(tlog.RecordProof{}, p.Path...)
		edit(&p)
		if _, err := p.Check(log); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	stranger := seal.Log{Base: log.Base, Public: make(ed25519.PublicKey, ed25519.PublicKeySize)}
	if _, err := good().Check(stranger); err == nil {
		t.Error("took a proof under another's key")
	}
}
