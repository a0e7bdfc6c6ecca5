package ledger_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/ca/crl"
	"codeberg.org/dataverket/segl/ca/ledger"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/duty"
	"codeberg.org/dataverket/segl/internal/pkitest"
	"codeberg.org/dataverket/segl/internal/uid"
)

const term = 7

// holding makes the duty of publishing lists ours for ever.
func holding(t *testing.T, h *pkitest.House) {
	t.Helper()
	_, err := h.DB.Exec(t.Context(), `INSERT INTO duty (name, holder, term, expires_at) VALUES ($1, 'test', $2, 'infinity')`, crl.Duty, term)
	must(t, err)
}

func list(s crl.Shard, number, previous int64) crl.Publication {
	now := time.Now().UTC().Truncate(time.Second)
	return crl.Publication{
		Standing: crl.Standing{Shard: s, Parts: 1, Number: number, Base: 1, BaseAt: now, ThisUpdate: now, NextUpdate: now.Add(time.Hour), Seen: "5:7:5"},
		Previous: previous, Term: term, At: now, DER: bytes.Repeat([]byte{byte(number)}, 3<<20), Delta: []byte{0xdd, byte(number)},
	}
}

func TestPublishComparesAndSets(t *testing.T) {
	h := pkitest.New(t)
	holding(t, h)
	l, s := h.Ledger, crl.Shard{Authority: h.Authorities()[1].ID, Epoch: uid.EpochOf(h.Now())}
	if _, err := l.Head(t.Context(), s); !errors.Is(err, crl.ErrNotFound) {
		t.Fatalf("no list yet: %v", err)
	}
	if err := l.Publish(t.Context(), list(s, 2, 1)); !errors.Is(err, crl.ErrStale) {
		t.Errorf("in place of a list that is not there: %v", err)
	}
	errs := atOnce(8, func(int) error { return l.Publish(t.Context(), list(s, 1, 0)) })
	if n := won(t, errs, crl.ErrStale); n != 1 {
		t.Errorf("%d of 8 published the first list, want one", n)
	}
	errs = atOnce(8, func(int) error { return l.Publish(t.Context(), list(s, 2, 1)) })
	if n := won(t, errs, crl.ErrStale); n != 1 {
		t.Errorf("%d of 8 published the second list, want one", n)
	}
	if err := l.Publish(t.Context(), list(s, 2, 1)); !errors.Is(err, crl.ErrStale) {
		t.Errorf("a slow one: %v", err)
	}
	late := list(s, 3, 2)
	late.Term--
	if err := l.Publish(t.Context(), late); !errors.Is(err, duty.ErrLost) {
		t.Errorf("by a former holder: %v", err)
	}
	want := list(s, 2, 1)
	got, err := l.Head(t.Context(), s)
	if err != nil || got.Number != 2 || got.Seen != want.Seen || got.Size != len(want.DER) || got.DeltaSize != len(want.Delta) {
		t.Errorf("the list is %+v, %v", got, err)
	}
	octets := func(number int64, k crl.Kind) (der []byte, err error) {
		err = l.Octets(t.Context(), s, number, k, func(piece []byte) error {
			der = append(der, piece...)
			return nil
		})
		return der, err
	}
	if der, err := octets(2, crl.Complete); err != nil || !bytes.Equal(der, want.DER) {
		t.Errorf("%d octets, %v", len(der), err)
	}
	if der, err := octets(2, crl.Delta); err != nil || !bytes.Equal(der, want.Delta) {
		t.Errorf("delta of %d octets, %v", len(der), err)
	}
	if _, err := octets(1, crl.Complete); !errors.Is(err, crl.ErrNotFound) {
		t.Errorf("the list before: %v", err)
	}
	if n := number(t, h.DB, `SELECT count(*) FROM crl_publication`); n != 2 {
		t.Errorf("%d publications on record, want 2", n)
	}
	must(t, l.Withdraw(t.Context(), s))
	if _, err := l.Head(t.Context(), s); !errors.Is(err, crl.ErrNotFound) {
		t.Errorf("withdrawn: %v", err)
	}
	if n := number(t, h.DB, `SELECT count(*) FROM crl_piece`); n != 0 {
		t.Errorf("%d pieces are left", n)
	}
}

func TestSinceTellsEachEndingUntilItIsSeen(t *testing.T) {
	h := pkitest.New(t)
	l, now := h.Ledger, h.Now()
	in := intent(now)
	in.Authority = h.Authorities()[1].ID
	within := []crl.Reach{{Authority: in.Authority, From: uid.EpochOf(now)}}
	seen, err := l.Since(t.Context(), nil, "", nil)
	must(t, err)
	since := func(from crl.Snapshot) (serials []cert.Serial) {
		t.Helper()
		var err error
		seen, err = l.Since(t.Context(), within, from, func(e crl.Ending) { serials = append(serials, e.Serial) })
		must(t, err)
		return serials
	}
	if got := since(seen); len(got) != 0 {
		t.Errorf("%v ended, though nothing did", got)
	}
	issued(t, l, in)
	must(t, l.Revoke(t.Context(), revocation(in.Serial)))
	if got := since(seen); len(got) != 1 || got[0] != in.Serial {
		t.Errorf("got %v, want %s", got, in.Serial)
	}

	// One that began before others and commits after them.
	second, third := in, in
	second.Serial, third.Serial = cert.NewSerial(1, now), cert.NewSerial(1, now)
	issued(t, l, second)
	issued(t, l, third)
	tx, err := h.DB.Begin(t.Context())
	must(t, err)
	defer tx.Rollback(context.WithoutCancel(t.Context())) //nolint:errcheck // committed below
	_, err = tx.Exec(t.Context(), `
		INSERT INTO revocation (serial, revoked_at, authority, scope, reason)
		SELECT $1, now(), $2, id, 0
		FROM   scope
		WHERE  path = 'demo'`, second.Serial.Bytes(), in.Authority)
	must(t, err)
	must(t, l.Revoke(t.Context(), revocation(third.Serial)))
	if got := since(seen); len(got) != 1 || got[0] != third.Serial {
		t.Errorf("got %v, want %s", got, third.Serial)
	}
	if got := since(seen); len(got) != 0 {
		t.Errorf("got %v again", got)
	}
	must(t, tx.Commit(t.Context()))
	if got := since(seen); len(got) != 1 || got[0] != second.Serial {
		t.Errorf("got %v, want the late committer %s", got, second.Serial)
	}
	if got := since(""); len(got) != 3 {
		t.Errorf("%d since ever, want 3", len(got))
	}
	if _, err := l.Since(t.Context(), within, "900000000000:900000000000:", nil); !errors.Is(err, crl.ErrForeign) {
		t.Errorf("a snapshot from elsewhere: %v", err)
	}
	within[0].From++
	if got := since(""); len(got) != 0 {
		t.Errorf("%v ended out of reach", got)
	}
	shard := crl.Standing{Shard: crl.Shard{Authority: in.Authority, Epoch: uid.EpochOf(now)}, Parts: 1}
	n := 0
	_, err = l.Ended(t.Context(), shard, 0, func(crl.Entry) error { n++; return nil })
	if err != nil || n != 3 {
		t.Errorf("%d ended in the shard, want 3: %v", n, err)
	}
	broken := errors.New("broken")
	if _, err := l.Ended(t.Context(), shard, 0, func(crl.Entry) error { return broken }); !errors.Is(err, broken) {
		t.Errorf("an error of the reader: %v", err)
	}
}

// In how many parts an epoch is listed follows from the volume before it, once.
func TestPartsFollowTheVolumeAndStay(t *testing.T) {
	h := pkitest.New(t)
	l, e := h.Ledger, uid.EpochOf(h.Now())
	parts := func(l *ledger.Ledger, authority int) int {
		t.Helper()
		n, err := l.Parts(t.Context(), authority, e)
		must(t, err)
		return n
	}
	if n := parts(l, 1); n != 1 {
		t.Errorf("%d parts without a past", n)
	}
	busy := 2
	_, err := h.DB.Exec(t.Context(), `SELECT make_epoch(1, $1)`, int(e)-1)
	must(t, err)
	before := fmt.Sprintf("intent_10_s1_e%d", int(e)-1)
	for i := range 20 {
		serial := uid.New(uid.Certificate, 1, (e - 1).Start().Add(time.Duration(i)*time.Minute))
		_, err = h.DB.Exec(t.Context(), `INSERT INTO `+before+` (serial, not_after, authority, scope, profile, tbs) VALUES ($1, now(), $2, 1, 'server', '\x30')`, serial.Bytes(), busy)
		must(t, err)
	}
	_, err = h.DB.Exec(t.Context(), `ANALYZE `+before)
	must(t, err)
	l.SetPartMost(3)
	if n := parts(l, busy); n != 8 {
		t.Errorf("%d parts of three after a week of twenty, want 8", n)
	}
	if n := parts(l, 3); n != 1 {
		t.Errorf("%d parts of an authority that certified nothing", n)
	}
	if n := parts(ledger.New(h.DB, 1), busy); n != 8 {
		t.Errorf("%d parts when asked by another replica, want 8", n)
	}
}

func TestManyRevocationsAreOneTransaction(t *testing.T) {
	h := pkitest.New(t)
	l, now := h.Ledger, h.Now()
	var list []ca.Revocation
	for range 450 {
		in := intent(now)
		in.Authority = h.Authorities()[1].ID
		list = append(list, revocation(issued(t, l, in)))
	}
	list = append(list, revocation(cert.NewSerial(1, now)), list[0])
	errs, err := l.RevokeAll(t.Context(), list)
	must(t, err)
	for i, err := range errs[:450] {
		if err != nil {
			t.Fatalf("%d: %v", i, err)
		}
	}
	if !errors.Is(errs[450], ca.ErrNotFound) || !errors.Is(errs[451], ca.ErrAlreadyRevoked) {
		t.Errorf("unknown: %v; twice: %v", errs[450], errs[451])
	}
	if n := number(t, h.DB, `SELECT count(DISTINCT xid) FROM revocation`); n != 1 {
		t.Errorf("%d transactions, want one", n)
	}
	again, err := l.RevokeAll(t.Context(), list[:2])
	must(t, err)
	for _, err := range again {
		if !errors.Is(err, ca.ErrAlreadyRevoked) {
			t.Errorf("again: %v", err)
		}
	}
}

// What was revoked before its signature was recorded is not issued any more.
func TestARevocationStopsACompletion(t *testing.T) {
	h := pkitest.New(t)
	in := intent(h.Now())
	in.Authority = h.Authorities()[1].ID
	must(t, h.Ledger.Intend(t.Context(), in))
	must(t, h.Ledger.Revoke(t.Context(), revocation(in.Serial)))
	if err := h.Ledger.Complete(t.Context(), completion(in.Serial)); !errors.Is(err, ca.ErrSettled) {
		t.Errorf("completed: %v", err)
	}
}
