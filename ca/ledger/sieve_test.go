package ledger_test

import (
	"testing"
	"time"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/ca/ledger"
	"codeberg.org/dataverket/segl/internal/bench/fill"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/pkitest"
	"codeberg.org/dataverket/segl/internal/postgres/postgrestest"
)

// filled is a house with some certificates in each of a few closed weeks.
func filled(t *testing.T) (*pkitest.House, []fill.Sample) {
	t.Helper()
	h := pkitest.On(t, postgrestest.Open(t))
	plan := fill.Plan{DB: h.DB, Ledger: h.Ledger, Site: 1, Scope: pkitest.Demo, N: 4000, Epochs: 8, Now: h.Now()}
	some, err := plan.Run(t.Context())
	must(t, err)
	return h, some
}

func found(t *testing.T, l *ledger.Ledger, q ca.Query) []cert.Serial {
	t.Helper()
	q.Limit = 100
	page, err := l.Select(t.Context(), q)
	must(t, err)
	var out []cert.Serial
	for _, r := range page.Records {
		out = append(out, r.Serial)
	}
	return out
}

func TestAClosedWeekIsAskedForWhatItMayHoldAndForNothingElse(t *testing.T) {
	h, some := filled(t)
	if n := number(t, h.DB, `SELECT count(*) FROM closed_epoch`); n != 7 {
		t.Fatalf("%d weeks are closed, want the 7 that have ended", n)
	}
	_, err := h.DB.Exec(t.Context(), `SELECT pg_stat_force_next_flush()`)
	must(t, err)
	for _, s := range some {
		for kind, q := range map[string]ca.Query{"name": {Name: s.Name}, "identity": {Name: s.Identity}, "key": {Key: s.Key}} {
			if len(found(t, h.Ledger, q)) == 0 {
				t.Errorf("%s is not found by its %s", s.Serial, kind)
			}
		}
	}
	// Of a name that is nowhere every week's filter says so, but for one in a hundred.
	asked := 0
	for i := range 50 {
		n, err := h.Ledger.Asked(t.Context(), named(t, "dns:nowhere"+string(rune('a'+i%26))+string(rune('a'+i/26))+".demo.test"))
		must(t, err)
		asked += n
	}
	if open := number(t, h.DB, `SELECT count(*) FROM pg_inherits WHERE inhparent = 'intent'::regclass`) - 7; asked > 50*open+20 {
		t.Errorf("50 names that are nowhere had %d weeks asked, of which %d are open; want few of the closed ones", asked, 50*open)
	}
}

// TestAWeekThatIsWrittenToAfterAllIsAskedAgain has a clock a few weeks behind.
func TestAWeekThatIsWrittenToAfterAllIsAskedAgain(t *testing.T) {
	h, some := filled(t)
	at := some[0].Serial.UID().Time()
	in := intent(at)
	late := issued(t, h.Ledger, in)
	if n := number(t, h.DB, `SELECT count(*) FROM closed_epoch`); n != 6 {
		t.Errorf("%d weeks count as closed, want one less than before", n)
	}
	page, err := h.Ledger.BySerial(t.Context(), late)
	must(t, err)
	if !page.NotAfter.Equal(in.NotAfter) {
		t.Errorf("%s ends at %s, want %s", late, page.NotAfter, in.NotAfter)
	}
	if len(found(t, h.Ledger, ca.Query{Name: some[0].Name})) == 0 {
		t.Error("what was in the week is not found any more")
	}
	n, err := h.Ledger.CloseEpochs(t.Context(), h.Now())
	must(t, err)
	if n != 1 {
		t.Errorf("%d weeks are closed again, want 1", n)
	}
}

func TestAWeekIsNotClosedWhileARequestBegunInItMayWrite(t *testing.T) {
	h, some := filled(t)
	last := some[len(some)-1].Serial.UID().Epoch()
	for at, want := range map[time.Duration]int{0: 0, 59 * time.Minute: 0} {
		n, err := h.Ledger.CloseEpochs(t.Context(), last.End().Add(at))
		must(t, err)
		if n != want {
			t.Errorf("%s after the week's end %d weeks are closed, want %d", at, n, want)
		}
	}
	n, err := h.Ledger.CloseEpochs(t.Context(), last.End().Add(time.Hour))
	must(t, err)
	if n != 1 {
		t.Errorf("an hour after its end %d weeks are closed, want 1", n)
	}
}

func TestAFilterHoldsAllThatWasPutIntoIt(t *testing.T) {
	for _, n := range []int{0, 1, 100, 129, 5000} {
		if missed, wrong := ledger.Sieve(n); missed > 0 || wrong > 0.03 {
			t.Errorf("of %d marks %d are missed, and %.3f of others are said to be there", n, missed, wrong)
		}
	}
}
