package ledger_test

import (
	"os"
	"strconv"
	"testing"
	"time"

	"codeberg.org/dataverket/segl/internal/bench/fill"
	"codeberg.org/dataverket/segl/internal/pkitest"
	"codeberg.org/dataverket/segl/internal/postgres/postgrestest"
)

// few is how many certificates there are unless SEGL_LARGE says otherwise: enough to see that everything is found. `make soak`
// says ten million, which take 9 GB.
const few = 5_800

// TestEverythingIsFoundInALargeLedger fills 58 weeks and looks certificates up in every way. It says how long that took and
// how many octets each takes; how long it may take depends on the machine, so only a page that costs a hundred times
// what it should fails.
func TestEverythingIsFoundInALargeLedger(t *testing.T) {
	n := few
	if s := os.Getenv("SEGL_LARGE"); s != "" {
		var err error
		n, err = strconv.Atoi(s)
		must(t, err)
	}
	h := pkitest.On(t, postgrestest.Open(t))
	plan := fill.Plan{
		DB: h.DB, Ledger: h.Ledger, Site: 1, Scope: pkitest.Demo, N: n, Epochs: 58, Now: h.Now(),
		Told: func(done int) {
			if n > few {
				t.Logf("%d certificates", done)
			}
		},
	}
	before := number(t, h.DB, `SELECT pg_database_size(current_database())`)
	began := time.Now()
	some, err := plan.Run(t.Context())
	must(t, err)
	t.Logf("%d certificates in %s, %d octets each", n, time.Since(began).Round(time.Second), (number(t, h.DB, `SELECT pg_database_size(current_database())`)-before)/n)
	began = time.Now()
	second := replica(t, h.DB)
	_, err = second.MakeEpochs(t.Context(), h.Now())
	must(t, err)
	_, err = second.BySerial(t.Context(), some[0].Serial)
	must(t, err)
	t.Logf("another replica's first answer after %s", time.Since(began).Round(time.Millisecond))
	timings, err := plan.Lookups(t.Context(), some)
	must(t, err)
	for _, v := range timings {
		t.Log(v)
		if v.P50 > 500*time.Millisecond {
			t.Errorf("%s: half of them took longer than %s", v.Kind, v.P50)
		}
	}
}
