package ledger_test

import (
	"errors"
	"sync"
	"testing"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/pkitest"
	"codeberg.org/dataverket/segl/internal/uid"
)

// vouchFor writes a fact for certificates.
func vouchFor(t *testing.T, h *pkitest.House, subject string, serials ...cert.Serial) error {
	t.Helper()
	f := audit.Fact{At: h.Now(), Who: demo, Scope: pkitest.Demo, What: audit.TokenIssued, Serial: serials[0], Subject: subject}
	return h.Ledger.Vouch(t.Context(), f, serials...)
}

func vouched(t *testing.T, h *pkitest.House) (n int) {
	t.Helper()
	must(t, h.DB.QueryRow(t.Context(), `SELECT count(*) FROM fact WHERE what = 'token.issue'`).Scan(&n))
	return n
}

func TestAFactIsVouchedForWhereEveryCertificateStands(t *testing.T) {
	h := pkitest.New(t)
	one, two := ask(t, h, demo, "workload"), ask(t, h, demo, "workload")
	must(t, vouchFor(t, h, "first", one.Serial))
	must(t, vouchFor(t, h, "both", one.Serial, two.Serial))
	must(t, errOf(h.Revoke(t.Context(), demo, two.Serial, cert.Superseded)))
	for name, err := range map[string]error{
		"revoked":            vouchFor(t, h, "revoked", two.Serial),
		"one of two revoked": vouchFor(t, h, "half", one.Serial, two.Serial),
		"never issued":       vouchFor(t, h, "never", cert.NewSerial(1, h.Now())),
		"of a week not here": vouchFor(t, h, "gone", cert.NewSerial(1, h.Now().Add(-40*uid.EpochLength))),
	} {
		if !errors.Is(err, ca.ErrCallerRevoked) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := vouched(t, h); n != 2 {
		t.Errorf("%d facts, want 2", n)
	}
}

func TestNothingIsVouchedForInASuspendedScope(t *testing.T) {
	h := pkitest.New(t)
	c := ask(t, h, demo, "workload")
	_, err := h.DB.Exec(t.Context(), `UPDATE scope SET suspended_at = now() WHERE path = 'demo'`)
	must(t, err)
	if err := vouchFor(t, h, "late", c.Serial); !errors.Is(err, ca.ErrSuspended) || vouched(t, h) != 0 {
		t.Errorf("%v", err)
	}
}

// One that is refused costs those in its transaction nothing.
func TestFactsVouchedForTogetherAreJudgedEachByItself(t *testing.T) {
	h := pkitest.New(t)
	good, bad := ask(t, h, demo, "workload"), ask(t, h, demo, "workload")
	must(t, errOf(h.Revoke(t.Context(), demo, bad.Serial, cert.Superseded)))
	var wg sync.WaitGroup
	errs := make([]error, 40)
	for i := range errs {
		wg.Go(func() {
			serial := good.Serial
			if i%8 == 0 {
				serial = bad.Serial
			}
			errs[i] = vouchFor(t, h, "one of many", serial)
		})
	}
	wg.Wait()
	for i, err := range errs {
		if want := i%8 == 0; errors.Is(err, ca.ErrCallerRevoked) != want || !want && err != nil {
			t.Errorf("%d: %v", i, err)
		}
	}
	if n := vouched(t, h); n != 35 {
		t.Errorf("%d facts, want 35", n)
	}
}
