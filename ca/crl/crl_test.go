package crl_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	zx509 "github.com/zmap/zcrypto/x509"
	"github.com/zmap/zlint/v3"
	zresult "github.com/zmap/zlint/v3/lint"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/ca/crl"
	"codeberg.org/dataverket/segl/ca/ocsp"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/duty"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/pkitest"
	"codeberg.org/dataverket/segl/internal/uid"
)

// A house with its lists.
type house struct {
	*pkitest.House
	builder *crl.Builder
	server  *crl.Server
}

func authorities(h *pkitest.House) func() []crl.Authority {
	return func() []crl.Authority {
		var list []crl.Authority
		for _, a := range h.Authorities() {
			list = append(list, crl.Authority{ID: a.ID, Name: a.Name, Certificate: a.Certificate, Key: a.Key, URL: h.PublicURL + "/crl/" + a.Name + "/"})
		}
		return list
	}
}

func newHouse(t *testing.T) *house {
	t.Helper()
	h := pkitest.New(t)
	// The duty is held here for ever, under this term.
	if _, err := h.DB.Exec(t.Context(), `INSERT INTO duty (name, holder, term, expires_at) VALUES ($1, 'test', $2, 'infinity')`, crl.Duty, term); err != nil {
		t.Fatal(err)
	}
	return &house{h, crl.New(config(h, h.Ledger)), crl.NewServer(config(h, h.Ledger))}
}

const term = 7

func config(h *pkitest.House, s crl.Shards) crl.Config {
	return crl.Config{Shards: s, Authorities: authorities(h), Now: h.Now}
}

func (h *house) run(t *testing.T) {
	t.Helper()
	if err := h.builder.RunOnce(t.Context(), term); err != nil {
		t.Fatal(err)
	}
}

func (h *house) issue(t *testing.T, names ...string) ca.Certificate {
	t.Helper()
	c, err := h.Issue(t.Context(), pkitest.Workload(pkitest.Demo, "web"), ca.Request{Scope: pkitest.Demo, Profile: "server", CSR: pkitest.CSR(t, pkitest.Key(t), names...)})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (h *house) revoke(t *testing.T, s cert.Serial, why cert.Reason) {
	t.Helper()
	if _, err := h.Revoke(t.Context(), operator(), s, why); err != nil {
		t.Fatal(err)
	}
}

func operator() identity.Caller { return identity.System("test") }

// list returns what is published for the shard c stands in, as another parser reads it.
func (h *house) list(t *testing.T, c ca.Certificate) *x509.RevocationList {
	t.Helper()
	a, err := h.Authority(c.Authority)
	if err != nil {
		t.Fatal(err)
	}
	return parsed(t, h.find(t, crl.Shard{Authority: a.ID, Epoch: c.Serial.Epoch()}), a.Certificate)
}

// A published list.
type published struct {
	crl.Standing
	DER []byte
}

func (h *house) find(t *testing.T, s crl.Shard) published {
	t.Helper()
	l, err := h.Ledger.Head(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	return published{l, h.octets(t, l, crl.Complete)}
}

func (h *house) octets(t *testing.T, l crl.Standing, k crl.Kind) (der []byte) {
	t.Helper()
	err := h.Ledger.Octets(t.Context(), l.Shard, l.Number, k, func(piece []byte) error {
		der = append(der, piece...)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// live returns every list there is.
func (h *house) live(t *testing.T) (all []published) {
	t.Helper()
	var ids []int
	for _, a := range h.Authorities() {
		ids = append(ids, a.ID)
	}
	standing, err := h.Ledger.Standing(t.Context(), ids)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range standing {
		all = append(all, published{l, h.octets(t, l, crl.Complete)})
	}
	return all
}

func parsed(t *testing.T, l published, issuer *x509.Certificate) *x509.RevocationList {
	t.Helper()
	r, err := x509.ParseRevocationList(l.DER)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.CheckSignatureFrom(issuer); err != nil {
		t.Fatal(err)
	}
	return r
}

// nth says which list of its shard has a number: the first begins at a whole second, in milliseconds since 1970.
func nth(number int64) int64 { return number%1000 + 1 }

// What was withdrawn, or forgotten by a ledger restored from a dump, had numbers that are not used again (RFC 5280 §5.2.3).
func TestAShardThatIsListedAgainTakesNoNumberTwice(t *testing.T) {
	h := newHouse(t)
	c := h.issue(t, "dns:a.demo.test")
	h.run(t)
	h.revoke(t, c.Serial, cert.Superseded)
	h.run(t)
	before := h.list(t, c).Number
	if _, err := h.DB.Exec(t.Context(), `DELETE FROM crl_piece`); err != nil {
		t.Fatal(err)
	}
	if _, err := h.DB.Exec(t.Context(), `DELETE FROM crl`); err != nil {
		t.Fatal(err)
	}
	h.Advance(time.Minute)
	h.builder = crl.New(config(h.House, h.Ledger))
	h.run(t)
	if after := h.list(t, c).Number; after.Cmp(before) <= 0 {
		t.Errorf("number %d came after %d", after, before)
	}
}

func TestEveryAuthorityHasEmptyListsBeforeItIssues(t *testing.T) {
	h := newHouse(t)
	h.run(t)
	now := uid.EpochOf(h.Now())
	for _, a := range h.Authorities() {
		for _, e := range []uid.Epoch{crl.Whole, now, now + 1} {
			l := h.find(t, crl.Shard{Authority: a.ID, Epoch: e})
			r := parsed(t, l, a.Certificate)
			if nth(l.Number) != 1 || r.Number.Cmp(big.NewInt(l.Number)) != 0 || len(r.RevokedCertificateEntries) != 0 {
				t.Errorf("%s, epoch %d: number %d, %d entries", a.Name, e, l.Number, len(r.RevokedCertificateEntries))
			}
			if life := r.NextUpdate.Sub(h.Now()); life < crl.Life-time.Minute || life > crl.Life {
				t.Errorf("%s, epoch %d: lives %s", a.Name, e, life)
			}
		}
	}
}

func TestRevokedAndAbandonedAreListedWithTheirReasons(t *testing.T) {
	h := newHouse(t)
	kept, lost, unspecified := h.issue(t, "dns:a.demo.test"), h.issue(t, "dns:b.demo.test"), h.issue(t, "dns:c.demo.test")
	h.revoke(t, lost.Serial, cert.KeyCompromise)
	h.revoke(t, unspecified.Serial, cert.Unspecified)
	h.run(t)
	got := map[string]int{}
	for _, e := range h.list(t, kept).RevokedCertificateEntries {
		got[e.SerialNumber.Text(16)] = e.ReasonCode
		if len(e.Extensions) > 0 != (e.ReasonCode != 0) {
			t.Errorf("%x: reason %d in %d extensions: unspecified is left out (RFC 5280 §5.3.1)", e.SerialNumber, e.ReasonCode, len(e.Extensions))
		}
		if age := h.Now().Sub(e.RevocationTime); age < 0 || age > time.Minute {
			t.Errorf("%x: ended %s ago", e.SerialNumber, age)
		}
	}
	if len(got) != 2 || got[lost.Serial.String()] != 1 || got[unspecified.Serial.String()] != 0 {
		t.Errorf("listed %v", got)
	}
}

func TestNothingIsDueTwice(t *testing.T) {
	h := newHouse(t)
	c := h.issue(t, "dns:a.demo.test")
	h.run(t)
	h.run(t)
	if n := nth(h.list(t, c).Number.Int64()); n != 1 {
		t.Errorf("number %d after a run with nothing to do", n)
	}
	h.revoke(t, c.Serial, cert.Superseded)
	h.run(t)
	if n := nth(h.list(t, c).Number.Int64()); n != 2 {
		t.Errorf("number %d after a revocation", n)
	}
	h.run(t)
	if n := nth(h.list(t, c).Number.Int64()); n != 2 {
		t.Errorf("number %d after another run", n)
	}
	h.Advance(crl.Refresh + time.Minute)
	h.run(t)
	if r := h.list(t, c); nth(r.Number.Int64()) != 3 || len(r.RevokedCertificateEntries) != 1 {
		t.Errorf("number %d with %d entries after the refresh time", r.Number, len(r.RevokedCertificateEntries))
	}
}

// A revocation in one shard leaves the others alone.
func TestOtherShardsStayAsTheyAre(t *testing.T) {
	h := newHouse(t)
	c := h.issue(t, "dns:a.demo.test")
	h.run(t)
	h.revoke(t, c.Serial, cert.Superseded)
	h.run(t)
	changed := 0
	lists := h.live(t)
	for _, l := range lists {
		if nth(l.Number) != 1 {
			changed++
		}
	}
	if changed != 2 {
		t.Errorf("%d lists changed, want the shard's and the whole one of %d", changed, len(lists))
	}
}

// Several replicas at once: each number is used once, and the newest list lacks nothing.
func TestConcurrentBuildersPublishEachNumberOnce(t *testing.T) {
	h := newHouse(t)
	c := h.issue(t, "dns:a.demo.test")
	h.revoke(t, c.Serial, cert.Superseded)
	replicas := []*crl.Builder{h.builder, crl.New(config(pkitest.On(t, h.DB), h.Ledger))}
	var wg sync.WaitGroup
	errs := make(chan error, 16)
	for i := range 8 {
		wg.Go(func() { errs <- replicas[i%len(replicas)].RunOnce(t.Context(), term) })
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		if err != nil {
			t.Error(err)
		}
	}
	if r := h.list(t, c); nth(r.Number.Int64()) != 1 || len(r.RevokedCertificateEntries) != 1 {
		t.Errorf("number %d, %d entries", r.Number, len(r.RevokedCertificateEntries))
	}
}

// faulty is a ledger whose Publish is lost, before it lands or after.
type faulty struct {
	crl.Shards
	publish func(ctx context.Context, p crl.Publication) error
}

func (f faulty) Publish(ctx context.Context, p crl.Publication) error { return f.publish(ctx, p) }

var errLost = errors.New("the connection was lost")

func TestALostPublicationIsMadeAgain(t *testing.T) {
	for _, row := range []struct {
		name   string
		lands  bool
		number int64 // after the next run: one that did not land is not used up
	}{
		{"before it landed", false, 2},
		{"after it landed", true, 2},
	} {
		t.Run(row.name, func(t *testing.T) {
			h := newHouse(t)
			c := h.issue(t, "dns:a.demo.test")
			h.run(t)
			h.revoke(t, c.Serial, cert.Superseded)
			lossy := crl.New(config(h.House, faulty{h.Ledger, func(ctx context.Context, p crl.Publication) error {
				if row.lands {
					if err := h.Ledger.Publish(ctx, p); err != nil {
						return err
					}
				}
				return errLost
			}}))
			if err := lossy.RunOnce(t.Context(), term); !errors.Is(err, errLost) {
				t.Fatalf("got %v", err)
			}
			h.run(t)
			if r := h.list(t, c); nth(r.Number.Int64()) != row.number || len(r.RevokedCertificateEntries) != 1 {
				t.Errorf("number %d, %d entries", r.Number, len(r.RevokedCertificateEntries))
			}
		})
	}
}

// A builder that read before another published has nothing to say any more.
func TestPublishRefusesAShardThatMovedOn(t *testing.T) {
	h := newHouse(t)
	h.run(t)
	l := h.find(t, crl.Shard{Authority: h.Authorities()[0].ID, Epoch: uid.EpochOf(h.Now())})
	for name, row := range map[string]struct{ number, previous int64 }{
		"a first list where there is one": {l.Number, 0},
		"the same number again":           {l.Number + 1, l.Number + 1},
		"a number from the future":        {l.Number + 7, l.Number + 6},
	} {
		again := crl.Publication{Standing: l.Standing, Previous: row.previous, Term: term, At: h.Now(), DER: l.DER}
		again.Number = row.number
		if err := h.Ledger.Publish(t.Context(), again); !errors.Is(err, crl.ErrStale) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	absent := crl.Publication{Standing: l.Standing, Previous: 4, Term: term, At: h.Now(), DER: l.DER}
	absent.Epoch += 40
	absent.Number = 5
	if err := h.Ledger.Publish(t.Context(), absent); !errors.Is(err, crl.ErrStale) {
		t.Errorf("a list after one that is not there: got %v", err)
	}
	if again := h.find(t, l.Shard); again.Number != l.Number || !bytes.Equal(again.DER, l.DER) {
		t.Error("a refused list left something behind")
	}
}

// Whoever lost the duty while it was signing publishes nothing, whatever the number says.
func TestASignerThatLostItsDutyPublishesNothing(t *testing.T) {
	h := newHouse(t)
	c := h.issue(t, "dns:a.demo.test")
	h.run(t)
	h.revoke(t, c.Serial, cert.Superseded)
	for _, other := range []int64{term - 1, term + 1} {
		if err := crl.New(config(h.House, h.Ledger)).RunOnce(t.Context(), other); !errors.Is(err, duty.ErrLost) {
			t.Errorf("term %d: got %v", other, err)
		}
	}
	if r := h.list(t, c); nth(r.Number.Int64()) != 1 {
		t.Errorf("number %d", r.Number)
	}
}

// A writer that stays open for long makes no list due that lacks nothing, and what it then commits is not missed.
func TestAnOpenTransactionMakesNothingDue(t *testing.T) {
	h := newHouse(t)
	early, late := h.issue(t, "dns:a.demo.test"), h.issue(t, "dns:b.demo.test")
	h.run(t)
	tx, err := h.DB.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_, err = tx.Exec(t.Context(), `
		INSERT INTO revocation (serial, revoked_at, authority, scope, reason)
		SELECT serial, now(), authority, scope, 4 FROM intent WHERE serial = $1`, late.Serial.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	h.revoke(t, early.Serial, cert.Superseded)
	for range 3 {
		h.run(t)
	}
	if r := h.list(t, early); nth(r.Number.Int64()) != 2 || len(r.RevokedCertificateEntries) != 1 {
		t.Errorf("while it is open: number %d, %d entries", r.Number, len(r.RevokedCertificateEntries))
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		h.run(t)
	}
	if r := h.list(t, early); nth(r.Number.Int64()) != 3 || len(r.RevokedCertificateEntries) != 2 {
		t.Errorf("when it has ended: number %d, %d entries", r.Number, len(r.RevokedCertificateEntries))
	}
}

// A successor, which knows nothing but what was published, goes on where the last holder stopped.
func TestASuccessorGoesOn(t *testing.T) {
	h := newHouse(t)
	var certs []ca.Certificate
	for i := range 4 {
		certs = append(certs, h.issue(t, "dns:"+string(rune('a'+i))+".demo.test"))
	}
	for i, c := range certs {
		h.revoke(t, c.Serial, cert.Superseded)
		h.builder = crl.New(config(h.House, h.Ledger))
		h.run(t)
		h.run(t)
		if r := h.list(t, c); nth(r.Number.Int64()) != int64(i+1) || len(r.RevokedCertificateEntries) != i+1 {
			t.Errorf("number %d, %d entries after %d", r.Number, len(r.RevokedCertificateEntries), i+1)
		}
	}
	// What was tampered with is not gone on from.
	if _, err := h.DB.Exec(t.Context(), `UPDATE crl_piece SET der = overlay(der PLACING '\x55' FROM octet_length(der) - 100)`); err != nil {
		t.Fatal(err)
	}
	last := h.issue(t, "dns:z.demo.test")
	h.revoke(t, last.Serial, cert.Superseded)
	h.builder = crl.New(config(h.House, h.Ledger))
	h.run(t)
	if r := h.list(t, last); len(r.RevokedCertificateEntries) != 5 {
		t.Errorf("%d entries after tampering", len(r.RevokedCertificateEntries))
	}
}

// A ledger that was restored elsewhere numbers transactions anew; lists are made from its rows then.
func TestASnapshotOfAnotherLifeIsNotBelieved(t *testing.T) {
	h := newHouse(t)
	c := h.issue(t, "dns:a.demo.test")
	h.run(t)
	if _, err := h.DB.Exec(t.Context(), `UPDATE crl SET seen = '900000000000:900000000000:'`); err != nil {
		t.Fatal(err)
	}
	h.revoke(t, c.Serial, cert.Superseded)
	h.builder = crl.New(config(h.House, h.Ledger))
	h.run(t)
	if r := h.list(t, c); len(r.RevokedCertificateEntries) != 1 {
		t.Errorf("%d entries", len(r.RevokedCertificateEntries))
	}
}

// What a relying party knows from a list and the newest delta is what the newest list says (RFC 5280 §5.2.4).
func TestAListAndItsDeltaAreTheNewestList(t *testing.T) {
	h := newHouse(t)
	first := h.issue(t, "dns:a.demo.test")
	h.revoke(t, first.Serial, cert.Superseded)
	h.run(t)
	base := h.list(t, first)
	for i := range 3 {
		c := h.issue(t, "dns:"+string(rune('b'+i))+".demo.test")
		h.revoke(t, c.Serial, cert.KeyCompromise)
		h.run(t)
		a, err := h.Authority(c.Authority)
		if err != nil {
			t.Fatal(err)
		}
		l := h.find(t, crl.Shard{Authority: a.ID, Epoch: c.Serial.Epoch()})
		delta := parsed(t, published{l.Standing, h.octets(t, l.Standing, crl.Delta)}, a.Certificate)
		if l.Base != base.Number.Int64() || delta.Number.Int64() != l.Number || len(delta.RevokedCertificateEntries) != i+1 {
			t.Errorf("delta %d to %d with %d entries", delta.Number, l.Base, len(delta.RevokedCertificateEntries))
		}
		known := map[string]bool{}
		for _, e := range slices.Concat(base.RevokedCertificateEntries, delta.RevokedCertificateEntries) {
			known[e.SerialNumber.String()] = true
		}
		newest := h.list(t, c)
		for _, e := range newest.RevokedCertificateEntries {
			if !known[e.SerialNumber.String()] {
				t.Errorf("%x is in neither", e.SerialNumber)
			}
		}
		if len(known) != len(newest.RevokedCertificateEntries) {
			t.Errorf("%d known, %d on the newest list", len(known), len(newest.RevokedCertificateEntries))
		}
	}
	// A refresh begins another base.
	h.Advance(crl.Refresh + time.Minute)
	h.run(t)
	if l := h.find(t, crl.Shard{Authority: mustAuthority(t, h, first).ID, Epoch: first.Serial.Epoch()}); l.Base != l.Number {
		t.Errorf("base %d of list %d after a refresh", l.Base, l.Number)
	}
}

func mustAuthority(t *testing.T, h *house, c ca.Certificate) *ca.Authority {
	t.Helper()
	a, err := h.Authority(c.Authority)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// Who fetched a list has it for some seconds whatever becomes of the ledger.
func TestAListAtHandIsServedWithoutTheLedger(t *testing.T) {
	h := newHouse(t)
	h.run(t)
	path := "/crl/" + h.Authorities()[1].Name + "/0.crl"
	get := func() int {
		rec := httptest.NewRecorder()
		h.server.ServeHTTP(rec, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil))
		return rec.Result().StatusCode
	}
	if got := get(); got != http.StatusOK {
		t.Fatalf("got %d", got)
	}
	h.DB.Close()
	h.Advance(time.Hour)
	if got := get(); got != http.StatusOK {
		t.Errorf("without a ledger: %d", got)
	}
	h.Advance(crl.Life)
	if got := get(); got != http.StatusServiceUnavailable {
		t.Errorf("when it has ended: %d", got)
	}
}

// An authority's volume decides once in how many parts an epoch is listed; certificates name theirs.
func TestPartsShareAnEpoch(t *testing.T) {
	h := newHouse(t)
	a := h.Authorities()[1]
	e := uid.EpochOf(h.Now())
	if _, err := h.DB.Exec(t.Context(), `INSERT INTO crl_split (authority, epoch, parts, at) SELECT id, $1, 4, now() FROM authority`, int(e)); err != nil {
		t.Fatal(err)
	}
	h.Parts = h.Ledger.Parts
	var certs []ca.Certificate
	for i := range 12 {
		certs = append(certs, h.issue(t, "dns:"+string(rune('a'+i))+".demo.test"))
	}
	h.run(t)
	for _, c := range certs {
		h.revoke(t, c.Serial, cert.Superseded)
	}
	h.run(t)
	total := 0
	for p := range 4 {
		l := h.find(t, crl.Shard{Authority: mustAuthority(t, h, certs[0]).ID, Epoch: e, Part: uint8(p)})
		total += len(parsed(t, l, mustAuthority(t, h, certs[0]).Certificate).RevokedCertificateEntries)
	}
	if total != len(certs) {
		t.Errorf("%d entries on four lists, want %d", total, len(certs))
	}
	for _, c := range certs[:3] {
		x, err := x509.ParseCertificate(c.DER)
		if err != nil {
			t.Fatal(err)
		}
		u, err := url.Parse(x.CRLDistributionPoints[0])
		if err != nil {
			t.Fatal(err)
		}
		rec := httptest.NewRecorder()
		h.server.ServeHTTP(rec, httptest.NewRequestWithContext(t.Context(), http.MethodGet, u.Path, nil))
		r, err := x509.ParseRevocationList(rec.Body.Bytes())
		if err != nil || !slices.ContainsFunc(r.RevokedCertificateEntries, func(e x509.RevocationListEntry) bool { return e.SerialNumber.Cmp(x.SerialNumber) == 0 }) {
			t.Errorf("%s does not list %s: %v", u, c.Serial, err)
		}
	}
	_ = a
	// Decided for ever.
	if n, err := h.Ledger.Parts(t.Context(), a.ID, e); n != 4 || err != nil {
		t.Errorf("%d parts, %v", n, err)
	}
}

func TestOneShardsFailureKeepsNoOther(t *testing.T) {
	h := newHouse(t)
	bad := h.Authorities()[0].ID
	builder := crl.New(config(h.House, faulty{h.Ledger, func(ctx context.Context, p crl.Publication) error {
		if p.Authority == bad {
			return errLost
		}
		return h.Ledger.Publish(ctx, p)
	}}))
	if err := builder.RunOnce(t.Context(), term); !errors.Is(err, errLost) {
		t.Fatalf("got %v", err)
	}
	if lists, want := h.live(t), 3*(len(h.Authorities())-1); len(lists) != want {
		t.Errorf("%d lists, want %d", len(lists), want)
	}
	if _, err := h.server.Bundle(t.Context()); err == nil || !strings.Contains(err.Error(), h.Authorities()[0].Name) {
		t.Errorf("the bundle lacks a list, yet got %v", err)
	}
}

// A shard that fails again and again is tried at its own pace, and what ends meanwhile is listed elsewhere at once.
func TestAShardThatFailsDelaysNoOther(t *testing.T) {
	h := newHouse(t)
	c := h.issue(t, "dns:a.demo.test")
	h.run(t)
	issuer := mustAuthority(t, h, c).ID
	fails, tries := true, 0
	builder := crl.New(config(h.House, faulty{h.Ledger, func(ctx context.Context, p crl.Publication) error {
		if p.Authority == issuer && p.Epoch == crl.Whole {
			if tries++; fails {
				return errLost
			}
		}
		return h.Ledger.Publish(ctx, p)
	}}))
	h.revoke(t, c.Serial, cert.Superseded)
	if err := builder.RunOnce(t.Context(), term); !errors.Is(err, crl.ErrUnmade) || !errors.Is(err, errLost) {
		t.Fatalf("got %v", err)
	}
	other := h.issue(t, "dns:b.demo.test")
	h.revoke(t, other.Serial, cert.Superseded)
	if err := builder.RunOnce(t.Context(), term); err != nil || tries != 1 {
		t.Errorf("at once after: tried %d times, %v", tries, err)
	}
	if r := h.list(t, other); len(r.RevokedCertificateEntries) != 2 {
		t.Errorf("%d entries beside a list that fails", len(r.RevokedCertificateEntries))
	}
	fails = false
	h.Advance(2 * time.Second)
	if err := builder.RunOnce(t.Context(), term); err != nil || tries != 2 {
		t.Errorf("after its rest: tried %d times, %v", tries, err)
	}
	whole := h.find(t, crl.Shard{Authority: issuer, Epoch: crl.Whole})
	if r := parsed(t, whole, mustAuthority(t, h, c).Certificate); len(r.RevokedCertificateEntries) != 2 {
		t.Errorf("%d entries after it recovered", len(r.RevokedCertificateEntries))
	}
}

type reply struct {
	status int
	header http.Header
	body   []byte
}

func TestServerAnswers(t *testing.T) {
	h := newHouse(t)
	h.run(t)
	a := h.Authorities()[1]
	epoch := strconv.Itoa(int(uid.EpochOf(h.Now())))
	srv := httptest.NewServer(h.server)
	t.Cleanup(srv.Close)
	get := func(method, path, tag string) reply {
		req, err := http.NewRequestWithContext(t.Context(), method, srv.URL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if tag != "" {
			req.Header.Set("If-None-Match", tag)
		}
		resp, err := srv.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return reply{resp.StatusCode, resp.Header, body}
	}
	good := get(http.MethodGet, "/crl/"+a.Name+"/"+epoch+".crl", "")
	if good.status != http.StatusOK || good.header.Get("Content-Type") != "application/pkix-crl" || good.header.Get("Cache-Control") != "public, max-age=60, must-revalidate" {
		t.Errorf("got %d, %v", good.status, good.header)
	}
	if l := h.find(t, crl.Shard{Authority: a.ID, Epoch: uid.EpochOf(h.Now())}); !bytes.Equal(good.body, l.DER) {
		t.Error("served something else than the published list")
	}
	if again := get(http.MethodGet, "/crl/"+a.Name+"/"+epoch+".crl", good.header.Get("ETag")); again.status != http.StatusNotModified {
		t.Errorf("with its tag: %d", again.status)
	}
	for path, want := range map[string]int{
		"/crl/" + a.Name + "/0" + epoch + ".crl":   http.StatusNotFound,
		"/crl/" + a.Name + "/+" + epoch + ".crl":   http.StatusNotFound,
		"/crl/" + a.Name + "/" + epoch:             http.StatusNotFound,
		"/crl/" + a.Name + "/1.crl":                http.StatusNotFound,
		"/crl/nobody/" + epoch + ".crl":            http.StatusNotFound,
		"/crl/" + a.Name + "/" + epoch + "-01.crl": http.StatusNotFound,
		"/crl/" + a.Name + "/" + epoch + "-0.crl":  http.StatusNotFound,
		"/crl/" + a.Name + "/" + epoch + "-.crl":   http.StatusNotFound,
		"/crl/" + a.Name + "/" + epoch + "-FF.crl": http.StatusNotFound,
		"/crl/" + a.Name + "/99999999999999.crl":   http.StatusNotFound,
		"/crl/" + a.Name + "/" + epoch + ".crl/x":  http.StatusNotFound,
		"/" + epoch + ".crl":                       http.StatusNotFound,
	} {
		if got := get(http.MethodGet, path, ""); got.status != want {
			t.Errorf("%s: %d, want %d", path, got.status, want)
		}
	}
	if got := get(http.MethodPost, "/crl/"+a.Name+"/"+epoch+".crl", ""); got.status != http.StatusMethodNotAllowed {
		t.Errorf("POST: %d", got.status)
	}
	delta := get(http.MethodGet, "/crl/"+a.Name+"/"+epoch+"-delta.crl", "")
	if delta.status != http.StatusOK || delta.header.Get("ETag") == good.header.Get("ETag") {
		t.Errorf("its delta: %d, %v", delta.status, delta.header)
	}
	h.DB.Close()
	if got := get(http.MethodGet, "/crl/"+a.Name+"/0.crl", ""); got.status != http.StatusServiceUnavailable || got.header.Get("Retry-After") == "" {
		t.Errorf("without a database: %d, Retry-After %q", got.status, got.header.Get("Retry-After"))
	}
}

// One house, one good certificate and one revoked, and everybody else's programs.
func TestOthersSeeTheRevocation(t *testing.T) {
	h := newHouse(t)
	good, revoked := h.issue(t, "dns:a.demo.test"), h.issue(t, "dns:b.demo.test")
	h.revoke(t, revoked.Serial, cert.KeyCompromise)
	h.run(t)
	t.Run("zlint finds nothing", func(t *testing.T) { zlintFindsNothing(t, h) })
	t.Run("openssl, bundle", func(t *testing.T) { opensslWithBundle(t, h, good, revoked) })
	t.Run("openssl, shard", func(t *testing.T) { opensslWithShard(t, h, good, revoked) })
	t.Run("gnutls", func(t *testing.T) { gnutls(t, h, good, revoked) })
}

func zlintFindsNothing(t *testing.T, h *house) {
	t.Helper()
	lists := h.live(t)
	for _, l := range lists {
		r, err := zx509.ParseRevocationList(l.DER)
		if err != nil {
			t.Fatal(err)
		}
		for name, result := range zlint.LintRevocationList(r).Results {
			if result.Status >= zresult.Warn && !strings.Contains(result.Details, "2.5.29.46 is NOT RECOMMENDED") { // of public authorities: our deltas
				t.Errorf("authority %d, epoch %d: %s: %s: %s", l.Authority, l.Epoch, result.Status, name, result.Details)
			}
		}
	}
}

// -crl_check_all is how PostgreSQL checks: the root as well.
func opensslWithBundle(t *testing.T, h *house, good, revoked ca.Certificate) {
	t.Helper()
	for _, check := range []string{"-crl_check", "-crl_check_all"} {
		if out, ok := h.verify(t, good, check, h.bundle(t)); !ok {
			t.Errorf("%s: good is refused: %s", check, out)
		}
		if out, ok := h.verify(t, revoked, check, h.bundle(t)); ok || !strings.Contains(out, "certificate revoked") {
			t.Errorf("%s: revoked: %t: %s", check, ok, out)
		}
	}
}

func opensslWithShard(t *testing.T, h *house, good, revoked ca.Certificate) {
	t.Helper()
	if out, ok := h.verify(t, good, "-crl_check", h.shard(t, good, 0)); !ok {
		t.Errorf("good is refused: %s", out)
	}
	if out, ok := h.verify(t, revoked, "-crl_check", h.shard(t, revoked, 0)); ok || !strings.Contains(out, "certificate revoked") {
		t.Errorf("revoked: %t: %s", ok, out)
	}
	// A list of another week proves nothing: without the shard's own, OpenSSL refuses.
	if out, ok := h.verify(t, good, "-crl_check", h.shard(t, good, 1)); ok || !strings.Contains(out, "different CRL scope") {
		t.Errorf("with another shard's list: %t: %s", ok, out)
	}
}

// A list and a delta, as OpenSSL combines them: what was revoked after the list is found in the delta alone.
func TestOpenSSLUsesDeltas(t *testing.T) {
	h := newHouse(t)
	good, early, late := h.issue(t, "dns:a.demo.test"), h.issue(t, "dns:b.demo.test"), h.issue(t, "dns:c.demo.test")
	h.revoke(t, early.Serial, cert.KeyCompromise)
	h.run(t)
	base := h.shard(t, good, 0)
	h.revoke(t, late.Serial, cert.KeyCompromise)
	h.run(t)
	l := h.find(t, crl.Shard{Authority: mustAuthority(t, h, good).ID, Epoch: good.Serial.Epoch()})
	both := slices.Concat(base, list(published{l.Standing, h.octets(t, l.Standing, crl.Delta)}))
	for _, row := range []struct {
		name  string
		c     ca.Certificate
		lists []byte
		ok    bool
	}{
		{"good", good, both, true},
		{"on the list", early, both, false},
		{"on the delta", late, both, false},
		{"on the delta, which is not there", late, base, true},
	} {
		f := h.files(t, row.c, row.lists)
		out, ok := run(t, "openssl", "verify", "-x509_strict", "-crl_check", "-use_deltas", "-extended_crl", // else it may take the delta for a whole list
			"-CAfile", f.roots, "-untrusted", f.chain, "-CRLfile", f.lists, f.leaf)
		if ok != row.ok || !ok && !strings.Contains(out, "certificate revoked") {
			t.Errorf("%s: %t: %s", row.name, ok, out)
		}
	}
}

// What first told of a revocation is on record, by number and time.
func TestReceiptsNameTheFirstThatTold(t *testing.T) {
	h := newHouse(t)
	c, other := h.issue(t, "dns:a.demo.test"), h.issue(t, "dns:b.demo.test")
	h.run(t)
	h.revoke(t, c.Serial, cert.Superseded)
	if got, err := h.Receipts(t.Context(), c.Serial); err != nil || len(got) != 0 {
		t.Errorf("before it is published: %v, %v", got, err)
	}
	h.run(t)
	h.revoke(t, other.Serial, cert.Superseded) // a later list tells of both
	h.run(t)
	for i, s := range []cert.Serial{c.Serial, other.Serial} {
		got, err := h.Receipts(t.Context(), s)
		if err != nil || len(got) != 2 {
			t.Fatalf("%v, %v", got, err)
		}
		for j, want := range []uid.Epoch{s.Epoch(), crl.Whole} {
			if r := got[j]; r.List == nil || r.List.Epoch != want || nth(r.List.Number) != int64(2+i) || r.Site != 1 || h.Now().Sub(r.At) > time.Minute {
				t.Errorf("%d: %+v", i, r)
			}
		}
	}
	// The first answer stays the first.
	first := ocsp.Receipt{Serial: c.Serial, At: h.Now(), Answer: [32]byte{1}}
	again := ocsp.Receipt{Serial: c.Serial, At: h.Now().Add(time.Second), Answer: [32]byte{2}}
	if left, err := h.Ledger.Uncarried(t.Context(), []cert.Serial{c.Serial, other.Serial}); err != nil || len(left) != 2 {
		t.Errorf("%v have no answer yet, %v", left, err)
	}
	for i, r := range []ocsp.Receipt{first, again} {
		late, err := h.Ledger.Carried(t.Context(), []ocsp.Receipt{r})
		if err != nil || len(late) != 1-i {
			t.Errorf("answer %d: late by %v, %v", i, late, err)
		}
	}
	got, err := h.Receipts(t.Context(), c.Serial)
	if err != nil || len(got) != 3 || got[2].List != nil || got[2].Answer != first.Answer {
		t.Errorf("%+v, %v", got, err)
	}
	if left, err := h.Ledger.Uncarried(t.Context(), []cert.Serial{c.Serial, other.Serial}); err != nil || len(left) != 1 || left[0] != other.Serial {
		t.Errorf("%v have no answer, %v", left, err)
	}
}

// GnuTLS overlooks distribution points and keeps one list an issuer, so it needs the whole list, or its shard's alone.
func gnutls(t *testing.T, h *house, good, revoked ca.Certificate) {
	t.Helper()
	verify := func(c ca.Certificate, lists []byte) (string, bool) {
		f := h.files(t, c, lists)
		return run(t, "certtool", "--verify", "--load-ca-certificate", f.roots, "--load-crl", f.lists, "--infile", f.whole)
	}
	for name, lists := range map[string]func(ca.Certificate) []byte{
		"bundle": func(ca.Certificate) []byte { return h.bundle(t) },
		"shard":  func(c ca.Certificate) []byte { return h.shard(t, c, 0) },
	} {
		if out, ok := verify(good, lists(good)); !ok || !strings.Contains(out, "Chain verification output: Verified") {
			t.Errorf("%s: good is refused: %s", name, out)
		}
		if out, ok := verify(revoked, lists(revoked)); ok || !strings.Contains(out, "revoked") {
			t.Errorf("%s: revoked: %t: %s", name, ok, out)
		}
	}
	a := mustAuthority(t, h, good)
	for _, e := range []uid.Epoch{crl.Whole, good.Serial.Epoch()} {
		f := h.files(t, good, list(h.find(t, crl.Shard{Authority: a.ID, Epoch: e})))
		if out, ok := run(t, "certtool", "--verify-crl", "--load-ca-certificate", f.chain, "--infile", f.lists); !ok || !strings.Contains(out, "Verification output: Verified") {
			t.Errorf("epoch %d: certtool --verify-crl: %s", e, out)
		}
	}
}

// files are what outside verifiers read.
type files struct{ roots, chain, whole, lists, leaf string }

func (h *house) files(t *testing.T, c ca.Certificate, lists []byte) files {
	t.Helper()
	dir := t.TempDir()
	write := func(name string, content []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	certs := func(ders ...[]byte) (out []byte) {
		for _, der := range ders {
			out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
		}
		return out
	}
	root := h.Roots()[0].Raw
	return files{
		roots: write("root.pem", certs(root)), chain: write("chain.pem", certs(c.Chain...)), leaf: write("leaf.pem", certs(c.DER)),
		whole: write("whole.pem", certs(slices.Concat([][]byte{c.DER}, c.Chain, [][]byte{root})...)), lists: write("crls.pem", lists),
	}
}

func run(t *testing.T, name string, args ...string) (string, bool) {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%s is not installed: deploy/tools/need test", name)
	}
	out, err := exec.CommandContext(t.Context(), path, args...).CombinedOutput()
	return string(out), err == nil
}

// verify asks OpenSSL about c with the given lists.
func (h *house) verify(t *testing.T, c ca.Certificate, check string, lists []byte) (string, bool) {
	t.Helper()
	f := h.files(t, c, lists)
	return run(t, "openssl", "verify", "-x509_strict", check, "-CAfile", f.roots, "-untrusted", f.chain, "-CRLfile", f.lists, f.leaf)
}

func list(l published) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: l.DER})
}

func (h *house) bundle(t *testing.T) []byte {
	t.Helper()
	b, err := h.server.Bundle(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := b.Write(t.Context(), &out); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// shard returns the list that c names, or one some weeks later.
func (h *house) shard(t *testing.T, c ca.Certificate, later uid.Epoch) []byte {
	t.Helper()
	a, err := h.Authority(c.Authority)
	if err != nil {
		t.Fatal(err)
	}
	return list(h.find(t, crl.Shard{Authority: a.ID, Epoch: c.Serial.Epoch() + later}))
}
