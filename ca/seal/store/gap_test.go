package store_test

import (
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/ca/ocsp"
	"codeberg.org/dataverket/segl/ca/seal"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/pkitest"
	"codeberg.org/dataverket/segl/internal/postgres/postgrestest"
	"codeberg.org/dataverket/segl/internal/uid"
	"codeberg.org/dataverket/segl/kms"
)

func (h *house) exec(t testing.TB, sql string, args ...any) {
	t.Helper()
	_, err := h.DB.Exec(t.Context(), sql, args...)
	must(t, err)
}

// forget takes everything away that was not sealed, as a restore does.
func (h *house) forget(t testing.TB) {
	t.Helper()
	last := h.head(t).Last.Transaction
	h.exec(t, `DELETE FROM outcome WHERE serial IN (SELECT serial FROM fact WHERE xid::text::bigint > $1 AND what LIKE 'certificate.issue')`, last)
	h.exec(t, `DELETE FROM intent i WHERE NOT EXISTS (SELECT FROM outcome o WHERE o.serial = i.serial)`)
	h.exec(t, `DELETE FROM revocation WHERE serial IN (SELECT serial FROM fact WHERE xid::text::bigint > $1 AND what LIKE 'certificate.revoke')`, last)
	h.exec(t, `DELETE FROM fact WHERE xid::text::bigint > $1`, last)
}

// signs is the authority of servers' certificates.
const signs = "servers-1-1"

func (h *house) status(t testing.TB, s cert.Serial) ocsp.State {
	t.Helper()
	found, err := h.Ledger.Status(t.Context(), []cert.Serial{s})
	must(t, err)
	return found[s].State
}

func TestADatabaseThatStaysWhereItIsIsNotFenced(t *testing.T) {
	h := opened(t)
	for range 2 {
		if arrived, err := h.store.Arrive(t.Context(), h.Now()); err != nil || arrived {
			t.Fatalf("arrived %t, %v", arrived, err)
		}
	}
	if why, err := h.store.Fence(t.Context()); err != nil || why != "" {
		t.Errorf("fenced: %q, %v", why, err)
	}
}

func TestADumpTakenBehindAFenceIsNumberedOnToo(t *testing.T) {
	h := opened(t)
	_, err := h.store.Arrive(t.Context(), h.Now())
	must(t, err)
	must(t, h.store.Raise(t.Context(), "a reason of before", h.Now()))
	h.exec(t, `INSERT INTO crl (authority, epoch, part, number, this_update, next_update, seen, entries, size, delta_size, base, base_at)
		SELECT id, 9, 0, 7, now(), now() + interval '1 day', pg_current_snapshot(), 0, 0, 0, 7, now() FROM authority LIMIT 1`)
	h.exec(t, `UPDATE seal_place SET place = 'another'`)
	arrived, err := h.store.Arrive(t.Context(), h.Now())
	if err != nil || !arrived {
		t.Fatalf("arrived %t, %v", arrived, err)
	}
	var number int64
	must(t, h.DB.QueryRow(t.Context(), `SELECT number FROM crl WHERE epoch = 9`).Scan(&number))
	if number < time.Now().Add(-time.Hour).UnixMilli() {
		t.Errorf("the next list would be number %d: numbers of before could be used again", number+1)
	}
}

// A dump carries the identifiers of transactions of the cluster it came from, where they may have been far higher.
func TestArrivingInAnotherClusterFencesAndNumbersOn(t *testing.T) {
	h := opened(t)
	_, err := h.store.Arrive(t.Context(), h.Now())
	must(t, err)
	h.seal(t)
	const far = 900_000_000
	h.exec(t, `INSERT INTO fact (at, what, actor, xid) VALUES ($1, 'test.far', 'x', '900000000')`, h.Now())
	h.exec(t, `INSERT INTO acme_boot (id, key) VALUES ('\x00', '\x00')`)
	h.exec(t, `INSERT INTO crl (authority, epoch, part, number, this_update, next_update, seen, entries, size, delta_size, base, base_at)
		SELECT id, 9, 0, 7, now(), now() + interval '1 day', pg_current_snapshot(), 0, 0, 0, 7, now() FROM authority LIMIT 1`)
	h.exec(t, `UPDATE seal_place SET place = 'another'`)

	arrived, err := h.store.Arrive(t.Context(), h.Now(), "acme_boot")
	if err != nil || !arrived {
		t.Fatalf("arrived %t, %v", arrived, err)
	}
	why, err := h.store.Fence(t.Context())
	if err != nil || !strings.Contains(why, "restored from a dump") {
		t.Errorf("the fence says %q, %v", why, err)
	}
	h.facts(t, 1)
	var (
		number, next int64
		boots        int
		same         bool
	)
	must(t, h.DB.QueryRow(t.Context(), `
		SELECT max(f.xid::text::bigint), (SELECT count(*) FROM acme_boot), (SELECT max(number) FROM crl WHERE epoch = 9),
		       pg_snapshot_xmin(ledger_snapshot()) = ledger_horizon()
		FROM   fact f
		WHERE  f.what = 'test.fact'`).Scan(&number, &boots, &next, &same))
	if number <= far {
		t.Errorf("the next fact is number %d, below what there was", number)
	}
	if boots != 0 {
		t.Error("a table that was meant to be empty is not")
	}
	if next < time.Now().Add(-time.Hour).UnixMilli() {
		t.Errorf("the next list would be number %d: numbers of before could be used again", next+1)
	}
	if !same {
		t.Error("snapshot and horizon disagree")
	}
	g, err := h.store.Gap(t.Context(), 1, h.Now())
	must(t, err)
	must(t, h.store.Accept(t.Context(), g, nobody, h.Now()))
	h.seal(t)
	if r := h.verify(t); len(r.Findings) != 0 || r.Unsealed != 0 {
		t.Errorf("%+v", r)
	}
	if again, err := h.store.Arrive(t.Context(), h.Now()); err != nil || again {
		t.Errorf("it arrived once more: %v", err)
	}
}

func TestAKeptCheckpointTellsWhatTheLedgerForgot(t *testing.T) {
	h, _, _ := filled(t)
	old := h.head(t).Checkpoint
	h.facts(t, 3)
	h.seal(t)
	now := h.head(t).Checkpoint
	other, err := h.log.Sign(t.Context(), 1, 5, [32]byte{1})
	must(t, err)
	longer, err := h.log.Sign(t.Context(), 1, 1<<40, [32]byte{1})
	must(t, err)
	later, err := h.log.Sign(t.Context(), 2, 5, [32]byte{1})
	must(t, err)
	for name, c := range map[string]struct{ kept, want string }{
		"the newest": {now, ""}, "an older one": {old, ""}, "of another tree": {other, "another tree"}, "of a longer tree": {longer, "there are"},
		"of a later era": {later, "era 2"},
	} {
		why, err := seal.Forgot(t.Context(), h.store, h.log, c.kept)
		if err != nil || (why == "") != (c.want == "") || !strings.Contains(why, c.want) {
			t.Errorf("%s: %q, %v", name, why, err)
		}
	}
	if _, err := seal.Forgot(t.Context(), h.store, h.log, "junk"); err == nil {
		t.Error("junk says nothing")
	}
}

func TestBehindAFenceNothingIsIssuedAndStatusGoesOn(t *testing.T) {
	h := opened(t)
	c := h.issue(t)
	var f seal.Fence
	h.Fence = f.Fenced
	f.Set("the test says so")
	req := ca.Request{Scope: pkitest.Demo, Profile: "server", CSR: pkitest.CSR(t, pkitest.Key(t), "dns:a.demo.test")}
	_, err := h.Issue(t.Context(), demo, req)
	if !errors.Is(err, ca.ErrFenced) || !errors.Is(err, ca.ErrUnavailable) || !strings.Contains(err.Error(), "accept-gap") {
		t.Errorf("%v, want a refusal that says what to do", err)
	}
	if _, err := h.Revoke(t.Context(), demo, c.Serial, cert.Superseded); err != nil {
		t.Errorf("revoking: %v", err)
	}
	if _, err := h.EnrolResponder(t.Context(), signs, pkitest.Key(t).Public()); err != nil {
		t.Errorf("a responder: %v", err)
	}
	f.Set("")
	if _, err := h.Issue(t.Context(), demo, req); err != nil {
		t.Errorf("after the fence: %v", err)
	}
}

func pemOf(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

// list is what an authority's list said before the database was lost.
func (h *house) list(t testing.TB, authority string, serials ...cert.Serial) string {
	t.Helper()
	a, err := h.Authority(authority)
	must(t, err)
	l := x509.RevocationList{Number: big.NewInt(1), ThisUpdate: h.Now(), NextUpdate: h.Now().Add(time.Hour)}
	for _, s := range serials {
		l.RevokedCertificateEntries = append(l.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: s.Int(), RevocationTime: h.Now(), ReasonCode: 1})
	}
	der, err := x509.CreateRevocationList(rand.Reader, &l, a.Certificate, kms.Signer(t.Context(), a.Key))
	must(t, err)
	return pemOf("X509 CRL", der)
}

func TestAcceptingAGapRevokesWhatThereIsEvidenceOf(t *testing.T) {
	h := opened(t)
	kept := h.issue(t)
	h.seal(t)
	before := h.head(t)
	lost, named, listed := h.issue(t), h.issue(t), h.issue(t)
	list := h.list(t, signs, kept.Serial, listed.Serial)
	h.forget(t)
	must(t, h.store.Raise(t.Context(), "the test lost it", h.Now()))
	if h.status(t, kept.Serial) != ocsp.Good || h.status(t, lost.Serial) != ocsp.Unknown {
		t.Fatal("the ledger did not forget as it should")
	}

	authorities, err := h.store.Authorities(t.Context())
	must(t, err)
	all, err := seal.ParseEvidence([]byte("# kept\n"+pemOf("CERTIFICATE", lost.DER)+"\n"+named.Serial.String()+" "+signs+"\n"+list), authorities)
	must(t, err)
	g, err := h.store.Gap(t.Context(), 1, h.Now())
	must(t, err)
	bare := g.Confirmation()
	g.Lost, g.Undone, err = h.store.Compare(t.Context(), all)
	must(t, err)
	if len(g.Lost) != 3 || len(g.Undone) != 1 || g.Confirmation() == bare {
		t.Fatalf("%d lost, %d undone", len(g.Lost), len(g.Undone))
	}
	must(t, h.store.Accept(t.Context(), g, nobody, h.Now()))

	for name, s := range map[string]cert.Serial{"in PEM": lost.Serial, "named": named.Serial, "on a list": listed.Serial, "known, and on a list": kept.Serial} {
		if got := h.status(t, s); got != ocsp.Revoked {
			t.Errorf("%s: OCSP says %d", name, got)
		}
	}
	if err := h.store.Accept(t.Context(), g, nobody, h.Now()); !errors.Is(err, seal.ErrMoved) {
		t.Errorf("accepted twice: %v", err)
	}
	if _, err := h.store.Gap(t.Context(), 1, h.Now()); !errors.Is(err, seal.ErrNotFenced) {
		t.Errorf("still fenced: %v", err)
	}
	h.seal(t)
	head := h.head(t)
	if head.Era != g.Era() || !strings.HasPrefix(head.Checkpoint, fmt.Sprintf("segl.test/ledger/1/era%d\n", g.Era())) || head.Size <= before.Size {
		t.Errorf("era %d, %d facts: %s", head.Era, head.Size, head.Checkpoint)
	}
	if r := h.verify(t); len(r.Findings) != 0 {
		t.Errorf("%+v", r.Findings)
	}
	// Nobody is told that the tree of before goes on.
	if why, err := seal.Forgot(t.Context(), h.store, h.log, before.Checkpoint); err != nil || why != "" {
		t.Errorf("%q, %v", why, err)
	}
	if r := h.verify(t, before.Checkpoint); len(r.Findings) != 0 {
		t.Errorf("a checkpoint of what was kept: %+v", r.Findings)
	}
	forked, err := h.log.Sign(t.Context(), 1, before.Size, [32]byte{1})
	must(t, err)
	longer, err := h.log.Sign(t.Context(), 1, before.Size+1, [32]byte{1})
	must(t, err)
	for checkpoint, want := range map[string]string{forked: "is not that of checkpoint 1", longer: "when a gap was accepted"} {
		if r := h.verify(t, checkpoint); len(r.Findings) != 1 || !strings.Contains(r.Findings[0].What, want) {
			t.Errorf("%+v, want one that says %q", r.Findings, want)
		}
	}
	if _, err := h.prover.Prove(t.Context(), demo, kept.Serial); err != nil {
		t.Errorf("proving what was kept: %v", err)
	}
}

func TestEvidenceThatIsNotOursIsRefused(t *testing.T) {
	h, other := opened(t), outfit(t, pkitest.On(t, postgrestest.Open(t))) // of another root
	c, foreign := h.issue(t), other.issue(t)
	authorities, err := h.store.Authorities(t.Context())
	must(t, err)
	altered := append([]byte{}, c.DER...)
	altered[len(altered)-1] ^= 1
	for name, s := range map[string]string{
		"another CA's certificate": pemOf("CERTIFICATE", foreign.DER), "an altered certificate": pemOf("CERTIFICATE", altered),
		"no certificate": pemOf("CERTIFICATE", []byte("x")), "another CA's list": other.list(t, signs, c.Serial), "no list": pemOf("X509 CRL", []byte("x")),
		"a serial without its authority": c.Serial.String(), "of an authority nobody knows": c.Serial.String() + " nobody",
		"no serial": "xyz " + signs, "a serial of other things": strings.Replace(c.Serial.String(), "10", "20", 1) + " " + signs,
	} {
		if got, err := seal.ParseEvidence([]byte(s), authorities); err == nil {
			t.Errorf("%s: took %+v", name, got)
		}
	}
}

// A backup of before a gap does not know of the era that began after it, whose tree somebody may remember.
func TestNoEraBeginsTwice(t *testing.T) {
	h := opened(t)
	h.facts(t, 3)
	h.seal(t)
	begin := func() string {
		must(t, h.store.Raise(t.Context(), "lost", h.Now()))
		g, err := h.store.Gap(t.Context(), 1, h.Now())
		must(t, err)
		must(t, h.store.Accept(t.Context(), g, nobody, h.Now()))
		h.seal(t)
		return h.head(t).Checkpoint
	}
	h.exec(t, `CREATE TABLE old_head AS SELECT era, size, xid, id, edge, checkpoint, sealed_at, one FROM seal_head`)
	remembered := begin()
	h.exec(t, `DELETE FROM fact WHERE xid > (SELECT xid FROM old_head)`) // restored from before the gap
	h.exec(t, `DELETE FROM seal_gap`)
	h.exec(t, `UPDATE seal_head h SET era = o.era, size = o.size, xid = o.xid, id = o.id, edge = o.edge, checkpoint = o.checkpoint FROM old_head o`)
	why, err := seal.Forgot(t.Context(), h.store, h.log, remembered)
	if err != nil || why == "" {
		t.Fatalf("%q, %v: want it missed", why, err)
	}
	h.Advance(time.Minute)
	origin := func(checkpoint string) string { first, _, _ := strings.Cut(checkpoint, "\n"); return first }
	if now := begin(); origin(now) == origin(remembered) {
		t.Errorf("two trees are known as %s", origin(now))
	}
	if why, err := seal.Forgot(t.Context(), h.store, h.log, remembered); err != nil || why != "" {
		t.Errorf("%q, %v: the gap was accepted", why, err)
	}
}

func TestAGapThatGrewMeanwhileIsNotAccepted(t *testing.T) {
	h := opened(t)
	h.seal(t)
	must(t, h.store.Raise(t.Context(), "first", h.Now()))
	must(t, h.store.Raise(t.Context(), "second", h.Now()))
	g, err := h.store.Gap(t.Context(), 1, h.Now())
	if err != nil || g.Why != "first" {
		t.Fatalf("%q, %v: the first reason stands", g.Why, err)
	}
	for name, edit := range map[string]func(*seal.Gap){
		"another reason": func(g *seal.Gap) { g.Why = "other" }, "another size": func(g *seal.Gap) { g.Head.Size++ }, "another era": func(g *seal.Gap) { g.Head.Era++ },
	} {
		other := g
		edit(&other)
		if err := h.store.Accept(t.Context(), other, nobody, h.Now()); !errors.Is(err, seal.ErrMoved) {
			t.Errorf("%s: %v", name, err)
		}
		if other.Confirmation() == g.Confirmation() {
			t.Errorf("%s: it is confirmed by the same words", name)
		}
	}
	if why, err := h.store.Fence(t.Context()); err != nil || why != "first" {
		t.Errorf("the fence is gone: %q, %v", why, err)
	}
}

// What left with its epoch is in an archive that says how many facts there were.
func TestFactsThatWereArchivedAreNotMissed(t *testing.T) {
	h := opened(t)
	h.facts(t, 700)
	h.seal(t)
	var first int64
	must(t, h.DB.QueryRow(t.Context(), `SELECT count(*) FROM fact WHERE id <= 400`).Scan(&first))
	for name, c := range map[string]struct {
		archived int64
		found    string
	}{
		"as many as there were": {first, ""}, "fewer": {first - 1, "were deleted"}, "more": {first + 1, "are missing"},
	} {
		tx, err := h.DB.Begin(t.Context())
		must(t, err)
		_, err = tx.Exec(t.Context(), `DELETE FROM fact WHERE id <= 400`)
		must(t, err)
		_, err = tx.Exec(t.Context(), `
			INSERT INTO epoch_archive (site, epoch, file, sha256, size, rows, archived_at, dropped_at)
			VALUES (1, $2, 'f', sha256('x'), 1, jsonb_build_object('fact_e' || $2::integer, $1::bigint), now(), now())`, c.archived, int(uid.EpochOf(h.Now())))
		must(t, err)
		r, err := seal.Verify(t.Context(), h.store.On(tx), h.log)
		must(t, err)
		must(t, tx.Rollback(t.Context()))
		if (len(r.Findings) == 0) != (c.found == "") || len(r.Findings) > 0 && !strings.Contains(r.Findings[0].What, c.found) {
			t.Errorf("%s: %+v", name, r)
		}
	}
}
