package store_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/ca/seal"
	"codeberg.org/dataverket/segl/ca/seal/store"
	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/duty"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/pkitest"
	"codeberg.org/dataverket/segl/kms"
)

var (
	demo   = pkitest.Workload(pkitest.Demo, "demo")
	nobody = identity.System("test")
)

// A house is a CA whose ledger is sealed.
type house struct {
	*pkitest.House
	store  *store.Store
	log    seal.Log
	sealer *seal.Sealer
	prover *seal.Prover
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func opened(t testing.TB) *house {
	t.Helper()
	return outfit(t, pkitest.New(t))
}

func outfit(t testing.TB, of *pkitest.House) *house {
	t.Helper()
	h := &house{House: of}
	key, err := kms.Ensure(t.Context(), h.Keyring, "ledger-1", kms.Ed25519)
	must(t, err)
	h.log, err = seal.NewLog("segl.test/ledger/1", key)
	must(t, err)
	h.store = store.New(h.DB)
	h.sealer = &seal.Sealer{Store: h.store, Log: h.log, Now: h.Now}
	h.prover = &seal.Prover{Store: h.store, Log: h.log}
	return h
}

// seal runs the duty once, as the server does.
func (h *house) seal(t testing.TB) {
	t.Helper()
	ran, err := duty.Once(t.Context(), h.DB, duty.Duty{Name: seal.Duty, Once: h.sealer.RunOnce})
	must(t, err)
	if !ran {
		t.Fatal("the duty is somebody else's")
	}
}

func (h *house) issue(t testing.TB) ca.Certificate {
	t.Helper()
	c, err := h.Issue(t.Context(), demo, ca.Request{Scope: pkitest.Demo, Profile: "server", CSR: pkitest.CSR(t, pkitest.Key(t), "dns:a.demo.test")})
	must(t, err)
	return c
}

// refuse writes n facts, each in a transaction of its own or not.
func (h *house) facts(t testing.TB, n int) {
	t.Helper()
	all := make([]audit.Fact, n)
	for i := range all {
		all[i] = audit.Fact{At: h.Now(), Who: nobody, Scope: pkitest.Demo, What: "test.fact", Subject: fmt.Sprint(i)}
	}
	_, err := h.DB.Exec(t.Context(), audit.Insert, audit.Columns(all...)...)
	must(t, err)
}

func (h *house) verify(t testing.TB, kept ...string) seal.Report {
	t.Helper()
	var r seal.Report
	must(t, h.store.Replay(t.Context(), func(s seal.Snapshot) (err error) {
		r, err = seal.Verify(t.Context(), s, h.log, kept...)
		return err
	}))
	return r
}

func (h *house) head(t testing.TB) seal.Head {
	t.Helper()
	head, err := h.store.Head(t.Context())
	must(t, err)
	return head
}

// filled is a house with 600 facts, a certificate that stands, one that is revoked, an intent that was abandoned, sealed.
func filled(t testing.TB) (h *house, good, revoked ca.Certificate) {
	t.Helper()
	h = opened(t)
	h.facts(t, 300)
	good, revoked = h.issue(t), h.issue(t)
	h.seal(t)
	_, err := h.Revoke(t.Context(), demo, revoked.Serial, cert.Superseded)
	must(t, err)
	in := ca.Intent{
		Serial: cert.NewSerial(1, h.Now().Add(-time.Minute)), Authority: 2, Scope: pkitest.Demo, Profile: "server", TBS: []byte("tbs"),
		NotAfter: h.Now().Add(time.Hour).Truncate(time.Second),
	}
	must(t, h.Ledger.Intend(t.Context(), in))
	if gone, err := h.Abandon(t.Context()); err != nil || len(gone) != 1 {
		t.Fatalf("abandoned %d, %v", len(gone), err)
	}
	h.facts(t, 300)
	h.seal(t)
	return h, good, revoked
}

func TestALedgerThatNobodyTouchedVerifies(t *testing.T) {
	h, good, _ := filled(t)
	kept := h.head(t).Checkpoint
	h.facts(t, 10)
	r := h.verify(t, kept)
	if len(r.Findings) != 0 || r.Unsealed != 10 || r.Facts != r.Size || r.Size < 600 {
		t.Fatalf("%+v", r)
	}
	h.seal(t)
	if r := h.verify(t, kept, h.head(t).Checkpoint); len(r.Findings) != 0 || r.Unsealed != 0 {
		t.Fatalf("%+v", r)
	}
	p, err := h.prover.Prove(t.Context(), demo, good.Serial)
	must(t, err)
	if _, err := p.Check(h.log); err != nil {
		t.Error(err)
	}
}

func TestAnEmptyLedgerVerifies(t *testing.T) {
	h := opened(t)
	if r := h.verify(t); len(r.Findings) != 0 || r.Size != 0 || r.Unsealed == 0 {
		t.Fatalf("%+v", r)
	}
}

// Each row of the table is what somebody with the database in hand does. %good and %revoked are serials.
func TestTamperingIsFoundAndItsRowNamed(t *testing.T) {
	h, good, revoked := filled(t)
	fill := strings.NewReplacer("%good", good.Serial.String(), "%revoked", revoked.Serial.String())
	for name, c := range map[string]struct{ sql, row, what string }{
		"delete a fact":           {`DELETE FROM fact WHERE what = 'test.fact' AND subject = '299' AND id < 350`, "fact ", "were deleted"},
		"delete many facts":       {`DELETE FROM fact WHERE what = 'test.fact' AND id < 350`, "fact ", "300 row(s) just before it were deleted"},
		"alter a fact":            {`UPDATE fact SET actor = 'somebody else' WHERE what = 'test.fact' AND subject = '7' AND id < 350`, "(test.fact)", "altered"},
		"alter why":               {`UPDATE fact SET why = 'x' WHERE what = 'certificate.revoke'`, "(certificate.revoke %revoked)", "altered"},
		"allow a refusal":         {`UPDATE fact SET allowed = false WHERE subject = '7' AND id < 350`, "(test.fact)", "altered"},
		"insert a fact":           {`INSERT INTO fact (at, what, actor, xid) SELECT at, 'test.forged', 'x', xid FROM fact WHERE what = 'test.fact' ORDER BY xid, id LIMIT 1`, "(test.forged)", "inserted"},
		"insert before all":       {`INSERT INTO fact (at, what, actor, xid) SELECT at, 'test.forged', 'x', '3' FROM fact LIMIT 1`, "(test.forged)", "inserted"},
		"reorder two facts":       {`UPDATE fact SET subject = CASE subject WHEN '7' THEN '8' ELSE '7' END WHERE subject IN ('7', '8') AND id < 350`, "(test.fact)", "altered"},
		"reorder by id":           {`UPDATE fact SET xid = (SELECT max(f.xid::text::bigint)::text::xid8 FROM fact f WHERE f.what = 'certificate.issue') WHERE subject = '7' AND id < 350`, "fact ", ""},
		"back-date a fact":        {`UPDATE fact SET at = at - interval '1 hour' WHERE what = 'certificate.issue' AND serial = '\x%good'`, "(certificate.issue %good)", "altered"},
		"truncate the tail":       {`DELETE FROM fact WHERE what = 'test.fact' AND id > 350`, "facts ", "missing"},
		"alter an intent":         {`UPDATE intent SET profile = 'client' WHERE serial = '\x%good'`, "(certificate.issue %good)", "altered"},
		"move an intent":          {`UPDATE intent SET scope = (SELECT id FROM scope WHERE path = 'other') WHERE serial = '\x%good'`, "(certificate.issue %good)", "altered"},
		"alter the bytes":         {`UPDATE intent SET tbs = set_byte(tbs, octet_length(tbs) - 1, (get_byte(tbs, octet_length(tbs) - 1) + 1) % 256) WHERE serial = '\x%good'`, "(certificate.issue %good)", "altered"},
		"alter a frame":           {`UPDATE frame SET body = set_byte(body, 40, (get_byte(body, 40) + 1) % 256)`, "(certificate.issue ", "altered"},
		"alter a signature":       {`UPDATE outcome SET signature = set_byte(signature, 9, (get_byte(signature, 9) + 1) % 256) WHERE serial = '\x%good'`, "(certificate.issue %good)", "altered"},
		"alter an outcome's time": {`UPDATE outcome SET at = at + interval '1 second' WHERE serial = '\x%good'`, "(certificate.issue %good)", "altered"},
		"sign what was abandoned": {`UPDATE outcome SET signature = '\x00' WHERE signature IS NULL`, "(certificate.abandon ", "altered"},
		"delete a certificate":    {`DELETE FROM outcome WHERE serial = '\x%good'`, "(certificate.issue %good)", "altered"},
		"delete a revocation":     {`DELETE FROM revocation WHERE serial = '\x%revoked'`, "(certificate.revoke %revoked)", "altered"},
		"alter a reason":          {`UPDATE revocation SET reason = 1 WHERE serial = '\x%revoked'`, "(certificate.revoke %revoked)", "altered"},
		"back-date a revocation":  {`UPDATE revocation SET revoked_at = revoked_at - interval '1 day' WHERE serial = '\x%revoked'`, "(certificate.revoke %revoked)", "altered"},
		"forge a revocation":      {`INSERT INTO revocation (serial, revoked_at, authority, scope, reason) SELECT serial, now(), authority, scope, 0 FROM intent WHERE serial = '\x%good'`, "revocation %good", "no fact says so"},
		"forge a certificate":     {`INSERT INTO outcome (serial, at, signature) SELECT set_byte(serial, 17, (get_byte(serial, 17) + 1) % 256), at, signature FROM outcome WHERE serial = '\x%good'`, "outcome (signed) ", "no fact says so"},
		"forge an abandonment":    {`INSERT INTO outcome (serial, at, signature) SELECT set_byte(serial, 17, (get_byte(serial, 17) + 1) % 256), at, NULL FROM outcome WHERE serial = '\x%good'`, "outcome (abandoned) ", "no fact says so"},
		"rename a scope":          {`UPDATE scope SET path = 'othr', tenant = 'othr' WHERE path = 'other'`, "fact ", "altered"},
		"alter a tile":            {`UPDATE seal_tile SET hashes = set_byte(hashes, 5 * 32, (get_byte(hashes, 5 * 32) + 1) % 256) WHERE level = 0 AND n = 0`, "fact ", "not what was sealed as leaf 5"},
		"delete a tile":           {`DELETE FROM seal_tile WHERE n = 1`, "seal_tile level 0 number 1", "missing"},
		"alter the edge":          {`UPDATE seal_head SET edge = set_byte(edge, 0, (get_byte(edge, 0) + 1) % 256)`, "fact ", "altered"},
		"alter the upper edge":    {`UPDATE seal_head SET edge = set_byte(edge, octet_length(edge) - 1, (get_byte(edge, octet_length(edge) - 1) + 1) % 256)`, "seal_head", "edge"},
		"alter the checkpoint":    {`UPDATE seal_head SET checkpoint = replace(checkpoint, size::text, (size - 1)::text)`, "seal_head", "not signed"},
		"shrink the head":         {`UPDATE seal_head SET size = size - (size % 256), edge = substring(edge FROM octet_length(edge) - 63)`, "seal_head", "its checkpoint says"},
	} {
		t.Run(name, func(t *testing.T) {
			tx, err := h.DB.Begin(t.Context())
			must(t, err)
			defer tx.Rollback(t.Context()) //nolint:errcheck // what was tampered with goes
			if tag, err := tx.Exec(t.Context(), fill.Replace(c.sql)); err != nil || tag.RowsAffected() == 0 {
				t.Fatalf("nothing was tampered with: %v, %v", tag, err)
			}
			r, err := seal.Verify(t.Context(), h.store.On(tx), h.log)
			must(t, err)
			if len(r.Findings) == 0 {
				t.Fatal("it was not found")
			}
			if f := r.Findings[0]; !strings.Contains(f.Row, fill.Replace(c.row)) || !strings.Contains(f.What, c.what) {
				t.Errorf("found %q: %q", f.Row, f.What)
			}
		})
	}
}

// Whoever has the key as well makes a tree that is right in itself. Only a checkpoint from before tells.
func TestATreeMadeAnewWithTheKeyIsFoundByACheckpointThatWasKept(t *testing.T) {
	for name, sql := range map[string]string{
		"rewritten": `UPDATE fact SET actor = 'somebody else' WHERE subject = '7' AND id < 350`,
		"shortened": `DELETE FROM fact WHERE what = 'test.fact' AND id > 350`,
		"forked":    `UPDATE fact SET why = 'x' WHERE id = (SELECT max(id) FROM fact)`,
	} {
		t.Run(name, func(t *testing.T) {
			h, _, _ := filled(t)
			kept := h.head(t).Checkpoint
			for _, s := range []string{sql, `TRUNCATE seal_tile`, `DELETE FROM seal_head`} {
				if _, err := h.DB.Exec(t.Context(), s); err != nil {
					t.Fatal(err)
				}
			}
			h.seal(t)
			if r := h.verify(t); len(r.Findings) != 0 {
				t.Fatalf("without the checkpoint: %+v", r.Findings)
			}
			if r := h.verify(t, kept); len(r.Findings) == 0 || !strings.Contains(r.Findings[0].What, "checkpoint 1 that was kept") {
				t.Errorf("with it: %+v", r.Findings)
			}
		})
	}
}

func TestVerifyRefusesACheckpointOfAnotherLog(t *testing.T) {
	h, _, _ := filled(t)
	other := opened(t)
	other.seal(t)
	err := h.store.Replay(t.Context(), func(s seal.Snapshot) error {
		_, err := seal.Verify(t.Context(), s, h.log, other.head(t).Checkpoint)
		return err
	})
	if err == nil {
		t.Error("taken")
	}
}

func TestASealDoesNotPassATransactionInFlight(t *testing.T) {
	h := opened(t)
	h.seal(t)
	slow, err := h.DB.Begin(t.Context())
	must(t, err)
	_, err = slow.Exec(t.Context(), audit.Insert, audit.Columns(audit.Fact{At: h.Now(), Who: nobody, What: "test.slow"})...)
	must(t, err)
	before := h.head(t).Size
	h.facts(t, 3)
	h.seal(t)
	if got := h.head(t).Size; got != before {
		t.Errorf("the tree grew from %d to %d while an earlier transaction was open", before, got)
	}
	must(t, slow.Commit(t.Context()))
	h.seal(t)
	if got := h.head(t).Size; got != before+4 {
		t.Errorf("the tree has %d leaves, want %d", got, before+4)
	}
	if r := h.verify(t); len(r.Findings) != 0 {
		t.Errorf("%+v", r.Findings)
	}
}

// A lostDuty loses its lease to another holder while it signs.
type lostDuty struct {
	*store.Store
	lose func()
}

func (l lostDuty) Advance(ctx context.Context, old int64, next seal.Head, tiles []seal.Tile, term int64) error {
	l.lose()
	return l.Store.Advance(ctx, old, next, tiles, term)
}

func TestASealerThatLostItsLeasePublishesNothing(t *testing.T) {
	h := opened(t)
	h.facts(t, 300)
	for name, sql := range map[string]string{
		"to another term":   `UPDATE duty SET term = term + 1 WHERE name = 'seal'`,
		"with its row gone": `DELETE FROM duty WHERE name = 'seal'`,
	} {
		_, err := h.DB.Exec(t.Context(), `DELETE FROM duty`)
		must(t, err)
		s := *h.sealer
		s.Store = lostDuty{h.store, func() { _, err := h.DB.Exec(t.Context(), sql); must(t, err) }}
		_, err = duty.Once(t.Context(), h.DB, duty.Duty{Name: seal.Duty, Once: s.RunOnce})
		if !errors.Is(err, seal.ErrMoved) {
			t.Errorf("%s: %v, want %v", name, err, seal.ErrMoved)
		}
		var tiles int
		must(t, h.DB.QueryRow(t.Context(), `SELECT count(*) FROM seal_tile`).Scan(&tiles))
		if head := h.head(t); head.Size != 0 || tiles != 0 {
			t.Errorf("%s: %d leaves and %d tiles were published", name, head.Size, tiles)
		}
	}
}

func TestOfTwoSealersThatFollowOneTreeOnePublishes(t *testing.T) {
	h := opened(t)
	h.facts(t, 20)
	s := *h.sealer
	s.Store = lostDuty{h.store, func() {
		other := h.sealer
		var term int64
		must(t, h.DB.QueryRow(t.Context(), `SELECT term FROM duty WHERE name = 'seal'`).Scan(&term))
		must(t, other.RunOnce(t.Context(), term))
	}}
	if _, err := duty.Once(t.Context(), h.DB, duty.Duty{Name: seal.Duty, Once: s.RunOnce}); !errors.Is(err, seal.ErrMoved) {
		t.Errorf("%v, want %v", err, seal.ErrMoved)
	}
	if r := h.verify(t); len(r.Findings) != 0 || r.Unsealed != 0 {
		t.Errorf("%+v", r)
	}
}

func TestWhatIsNotSealedYetIsNotProved(t *testing.T) {
	h, _, _ := filled(t)
	late := h.issue(t)
	if _, err := h.prover.Prove(t.Context(), demo, late.Serial); !errors.Is(err, seal.ErrNotSealed) {
		t.Errorf("%v, want %v", err, seal.ErrNotSealed)
	}
	if _, err := h.prover.Prove(t.Context(), demo, cert.NewSerial(1, h.Now())); !errors.Is(err, seal.ErrNotFound) {
		t.Errorf("a serial nobody issued: %v, want %v", err, seal.ErrNotFound)
	}
	h.seal(t)
	if _, err := h.prover.Prove(t.Context(), demo, late.Serial); err != nil {
		t.Error(err)
	}
}

func TestEveryCertificateOfSeveralTilesIsProved(t *testing.T) {
	h := opened(t)
	var all []ca.Certificate
	for range 4 {
		all = append(all, h.issue(t))
		h.facts(t, 200)
		h.seal(t)
	}
	for _, c := range all {
		p, err := h.prover.Prove(t.Context(), demo, c.Serial)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(p.Leaf), c.Serial.String()) {
			t.Errorf("the leaf is %s", p.Leaf)
		}
		again, err := seal.ParseProof(p.String())
		if err != nil || again.String() != p.String() {
			t.Errorf("it does not read back: %v", err)
		}
	}
}

func TestProofsAndEntriesAreForThoseWhoMaySeeThem(t *testing.T) {
	h, good, _ := filled(t)
	other := pkitest.Workload(pkitest.Scope("other"), "x")
	operator := identity.Caller{Actor: "operator", Operator: true}
	holder := other
	holder.Serial = good.Serial
	for name, c := range map[string]struct {
		who  identity.Caller
		want error
	}{
		"its scope": {demo, nil}, "the scope above": {pkitest.Workload(pkitest.Scope("demo"), "x"), nil}, "its holder": {holder, nil},
		"an operator": {operator, nil}, "another tenant": {other, seal.ErrNotFound}, "nobody": {identity.Caller{}, seal.ErrNotFound},
	} {
		if _, err := h.prover.Prove(t.Context(), c.who, good.Serial); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	if _, err := h.prover.Bundle(t.Context(), demo, 0, 0); !errors.Is(err, seal.ErrNotFound) {
		t.Errorf("a tenant reads others' facts: %v", err)
	}
	b, err := h.prover.Bundle(t.Context(), operator, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	tile, err := h.prover.Tile(t.Context(), 0, 0, 0)
	must(t, err)
	for i := 0; len(b) > 0; i++ {
		n := int(b[0])<<8 | int(b[1])
		if h := tlog.RecordHash(b[2 : 2+n]); string(h[:]) != string(tile[i*32:i*32+32]) {
			t.Fatalf("entry %d does not hash to its place in the tile", i)
		}
		b = b[2+n:]
	}
	for _, n := range []int64{3, 1 << 40} {
		if _, err := h.prover.Bundle(t.Context(), operator, n, 0); !errors.Is(err, seal.ErrNotFound) {
			t.Errorf("bundle %d: %v", n, err)
		}
	}
}

// Whoever kept a checkpoint can see that the next tree only adds to its.
func TestTreesAreConsistentAndTilesAloneProveIt(t *testing.T) {
	h := opened(t)
	var kept []seal.Checkpoint
	for _, n := range []int{3, 250, 40, 700} {
		h.facts(t, n)
		h.seal(t)
		c, _, err := h.log.Open(1, h.head(t).Checkpoint)
		must(t, err)
		kept = append(kept, c)
	}
	for i, old := range kept {
		for _, c := range kept[i:] {
			text, err := h.prover.Consistency(t.Context(), old.Size, c.Size)
			must(t, err)
			var p tlog.TreeProof
			for _, line := range strings.Fields(text) {
				b, err := base64.StdEncoding.DecodeString(line)
				must(t, err)
				p = append(p, tlog.Hash(b))
			}
			if err := tlog.CheckTree(p, c.Size, c.Root, old.Size, old.Root); old.Size < c.Size && err != nil {
				t.Errorf("from %d to %d: %v", old.Size, c.Size, err)
			}
		}
	}
	for _, sizes := range [][2]int64{{5, 4}, {5, 1 << 40}} {
		if _, err := h.prover.Consistency(t.Context(), sizes[0], sizes[1]); !errors.Is(err, seal.ErrNotFound) {
			t.Errorf("%v: %v", sizes, err)
		}
	}
}
