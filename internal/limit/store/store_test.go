package store_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/limit"
	"codeberg.org/dataverket/segl/internal/limit/store"
	"codeberg.org/dataverket/segl/internal/pkitest"
	"codeberg.org/dataverket/segl/internal/policy"
	"codeberg.org/dataverket/segl/internal/postgres"
	"codeberg.org/dataverket/segl/internal/postgres/postgrestest"
)

const (
	few   limit.Name = "test-few"
	many  limit.Name = "test-many"
	quick limit.Name = "test-quick"
	none  limit.Name = "test-none"
)

// slow is so slow that a test sees nothing forgotten.
var definitions = []limit.Definition{
	{Name: few, Rate: limit.Rate{Count: 3, Per: 1000 * time.Hour}, About: "few"},
	{Name: many, Rate: limit.Rate{Count: 1000, Per: 100_000 * time.Hour}, About: "many"},
	{Name: quick, Rate: limit.Rate{Count: 2, Per: 20 * time.Millisecond}, About: "quick"},
	{Name: none, About: "unlimited"},
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func opened(t testing.TB) *postgres.DB { return pkitest.On(t, postgrestest.Open(t)).DB }

func replica(t testing.TB, db *postgres.DB) *store.Store {
	t.Helper()
	s := store.New(db, time.Now, definitions)
	t.Cleanup(s.Close)
	return s
}

func of(name limit.Name, subject string) limit.Charge {
	return limit.Charge{Limit: name, Scope: pkitest.Demo, Subject: subject}
}

// exceeded wants err to say that name is exceeded.
func exceeded(t testing.TB, err error, name limit.Name) *limit.Exceeded {
	t.Helper()
	var e *limit.Exceeded
	if !errors.As(err, &e) || e.Limit != name || e.Wait <= 0 {
		t.Fatalf("%v, want %s exceeded for a while", err, name)
	}
	return e
}

var operator = identity.Caller{Actor: "test", Scope: identity.Platform, Operator: true}

func TestNoMoreThanTheRateIsAllowedByAllReplicasTogether(t *testing.T) {
	db := opened(t)
	at := time.Now() // and stays there: what a replica holds would be lost by time alone on a slow machine
	var stores []*store.Store
	for range 3 {
		s := store.New(db, func() time.Time { return at }, definitions)
		t.Cleanup(s.Close)
		stores = append(stores, s)
	}
	var allowed atomic.Int32
	var all sync.WaitGroup
	for i := range 24 {
		all.Go(func() {
			for range 100 {
				err := stores[i%3].Take(t.Context(), of(many, "one"))
				var e *limit.Exceeded
				switch {
				case err == nil:
					allowed.Add(1)
				case !errors.As(err, &e):
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	// What replicas hold in advance and do not spend is lost, never spent twice: each holds at most a twentieth.
	if n := allowed.Load(); n > 1000 || n < 1000-3*50 {
		t.Errorf("%d uses of 2400 were allowed, want 1000 and none more", n)
	}
}

func TestAFewAreCountedExactly(t *testing.T) {
	db := opened(t)
	stores := []*store.Store{replica(t, db), replica(t, db)}
	for i := range 3 {
		must(t, stores[i%2].Take(t.Context(), of(few, "one")))
	}
	for _, s := range stores {
		e := exceeded(t, s.Take(t.Context(), of(few, "one")), few)
		if step := 1000 * time.Hour / 3; e.Subject != "one" || e.Rate.Count != 3 || e.Wait > step {
			t.Errorf("%+v", e)
		}
	}
	must(t, stores[0].Take(t.Context(), of(few, "another")))
}

func TestWhatIsForgottenIsAllowedAgain(t *testing.T) {
	s := replica(t, opened(t))
	for range 2 {
		must(t, s.Take(t.Context(), of(quick, "one")))
	}
	deadline := time.Now().Add(10 * time.Second)
	for {
		err := s.Take(t.Context(), of(quick, "one"))
		if err == nil {
			return
		}
		e := exceeded(t, err, quick)
		if time.Now().After(deadline) {
			t.Fatal("it is never allowed again")
		}
		select {
		case <-time.After(e.Wait): // the database's own clock decides
		case <-t.Context().Done():
		}
	}
}

func TestARefusedRequestLeavesTheRestToTheNext(t *testing.T) {
	s := replica(t, opened(t))
	for range 3 {
		must(t, s.Take(t.Context(), of(few, "name")))
	}
	exceeded(t, s.Take(t.Context(), of(few, "account"), of(few, "name")), few)
	for range 3 {
		must(t, s.Take(t.Context(), of(few, "account")))
	}
	exceeded(t, s.Take(t.Context(), of(few, "account")), few)
}

func TestALookCountsNothing(t *testing.T) {
	db := opened(t)
	s := replica(t, db)
	look := of(few, "one")
	look.Peek = true
	for range 10 {
		must(t, s.Take(t.Context(), look))
	}
	var rows int
	must(t, db.QueryRow(t.Context(), `SELECT count(*) FROM limit_bucket`).Scan(&rows))
	if rows != 0 {
		t.Errorf("looking left %d rows", rows)
	}
	for range 3 {
		must(t, s.Take(t.Context(), of(few, "one"), look2(look)))
	}
	exceeded(t, s.Take(t.Context(), look), few)
	exceeded(t, replica(t, db).Take(t.Context(), look), few)
}

// TestALookThatFoundNothingIsBelievedForAMoment: where so much is allowed at once that a moment's uses are little of it, and only
// as long as this replica counts none itself.
func TestALookThatFoundNothingIsBelievedForAMoment(t *testing.T) {
	db := opened(t)
	var after atomic.Int64
	begun := time.Now()
	s := store.New(db, func() time.Time { return begun.Add(time.Duration(after.Load())) }, definitions)
	t.Cleanup(s.Close)
	other := replica(t, db)
	looks := map[limit.Name]limit.Charge{}
	for _, name := range []limit.Name{few, many} {
		look := of(name, "one")
		look.Peek = true
		looks[name] = look
		must(t, s.Take(t.Context(), look))
		for other.Take(t.Context(), of(name, "one")) == nil { //nolint:revive // until no more is allowed
		}
	}
	must(t, s.Take(t.Context(), looks[many]))
	exceeded(t, s.Take(t.Context(), looks[few]), few)
	after.Add(int64(3 * time.Second))
	exceeded(t, s.Take(t.Context(), looks[many]), many)

	own := of(many, "two")
	own.Peek = true
	must(t, s.Take(t.Context(), own))
	for s.Take(t.Context(), of(many, "two")) == nil { //nolint:revive // until no more is allowed
	}
	exceeded(t, s.Take(t.Context(), own), many)
}

// look2 looks at somebody else.
func look2(c limit.Charge) limit.Charge {
	c.Subject = "two"
	return c
}

func TestUnlimitedIsNotCounted(t *testing.T) {
	db := opened(t)
	s := replica(t, db)
	for range 10 {
		must(t, s.Take(t.Context(), of(none, "one")))
	}
	var rows int
	must(t, db.QueryRow(t.Context(), `SELECT count(*) FROM limit_bucket`).Scan(&rows))
	if rows != 0 {
		t.Errorf("%d rows", rows)
	}
}

func TestTakeRefusesALimitNobodyDefined(t *testing.T) {
	if err := replica(t, opened(t)).Take(t.Context(), of("nonsense", "one")); !errors.Is(err, limit.ErrUnknown) {
		t.Error(err)
	}
}

func TestOverridesHoldInTheirScopeAndBelow(t *testing.T) {
	db := opened(t)
	s := replica(t, db)
	one := limit.Rate{Count: 1, Per: 1000 * time.Hour}
	must(t, s.Set(t.Context(), operator, few, pkitest.Scope("demo"), &one))
	must(t, s.Take(t.Context(), of(few, "one")))
	exceeded(t, s.Take(t.Context(), of(few, "one")), few)
	elsewhere := of(few, "elsewhere")
	elsewhere.Scope = pkitest.Scope("other")
	for range 3 {
		must(t, s.Take(t.Context(), elsewhere))
	}
	exceeded(t, s.Take(t.Context(), elsewhere), few)

	five := limit.Rate{Count: 5, Per: 1000 * time.Hour}
	must(t, s.Set(t.Context(), operator, few, pkitest.Demo, &five))
	for range 4 {
		must(t, replica(t, db).Take(t.Context(), of(few, "one"))) // one was used
	}
	exceeded(t, replica(t, db).Take(t.Context(), of(few, "one")), few)
	list, err := s.Standings(t.Context(), pkitest.Demo)
	must(t, err)
	if list[0].Now != five || list[0].From != pkitest.Demo || list[1].Now.Count != 1000 || !list[1].From.IsZero() {
		t.Errorf("%+v", list)
	}
	must(t, s.Set(t.Context(), operator, few, pkitest.Demo, nil))
	if r, err := s.Rate(t.Context(), few, pkitest.Demo); err != nil || r != one {
		t.Errorf("%v %v", r, err)
	}
}

var errForbidden = errors.New("a role forbids it")

func TestChangesAreRefused(t *testing.T) {
	db := opened(t)
	s := replica(t, db)
	r := limit.Rate{Count: 1, Per: time.Hour}
	tenant := pkitest.Workload(pkitest.Demo, "w")
	for name, c := range map[string]struct {
		err  error
		want error
	}{
		"by a tenant":              {s.Set(t.Context(), tenant, few, pkitest.Demo, &r), errForbidden},
		"of no limit":              {s.Set(t.Context(), operator, "nonsense", pkitest.Demo, &r), limit.ErrUnknown},
		"of no scope":              {s.Set(t.Context(), operator, few, pkitest.Scope("nobody/knows"), &r), limit.ErrNotFound},
		"taking away what is not":  {s.Set(t.Context(), operator, few, pkitest.Demo, nil), limit.ErrNotFound},
		"forgetting by a tenant":   {s.Forget(t.Context(), tenant, few, "one"), errForbidden},
		"forgetting of no limit":   {s.Forget(t.Context(), operator, "nonsense", "one"), limit.ErrUnknown},
		"forgetting what was none": {s.Forget(t.Context(), operator, few, "one"), limit.ErrNotFound},
	} {
		if _, refused := errors.AsType[*policy.Refusal](c.err); !errors.Is(c.err, c.want) && !(refused && errors.Is(c.want, errForbidden)) {
			t.Errorf("%s: %v, want %v", name, c.err, c.want)
		}
	}
	var facts int
	must(t, db.QueryRow(t.Context(), `SELECT count(*) FROM fact WHERE what = 'limit.change'`).Scan(&facts))
	if facts != 0 {
		t.Errorf("%d facts of changes that were not made", facts)
	}
}

func TestOperatorsSeeWhatIsUsedAndLetItBegin(t *testing.T) {
	db := opened(t)
	s := replica(t, db)
	for range 3 {
		must(t, s.Take(t.Context(), of(few, "full")))
	}
	must(t, s.Take(t.Context(), of(few, "fuller")))
	for percent, want := range map[int]int{0: 2, 50: 1, 100: 0} { // time passes: nothing is quite full
		list, err := s.Usage(t.Context(), limit.Query{Limit: few, Subject: "ful", Percent: percent, Most: 10})
		must(t, err)
		if len(list) != want || want > 0 && (list[0].Subject != "full" || list[0].Used != 3 || list[0].Burst != 3 || !list[0].Clear.After(time.Now())) {
			t.Errorf("from %d%%: %+v", percent, list)
		}
	}
	must(t, s.Forget(t.Context(), operator, few, "full"))
	must(t, replica(t, db).Take(t.Context(), of(few, "full")))
}

func TestSweepKeepsWhatCounts(t *testing.T) {
	db := opened(t)
	s := replica(t, db)
	for i := range 50 {
		must(t, s.Take(t.Context(), of(quick, fmt.Sprint(i))))
	}
	must(t, s.Take(t.Context(), of(few, "one")))
	rows := func() (n int) {
		must(t, s.Sweep(t.Context()))
		must(t, db.QueryRow(t.Context(), `SELECT count(*) FROM limit_bucket`).Scan(&n))
		return n
	}
	deadline := time.Now().Add(10 * time.Second)
	for rows() != 1 && time.Now().Before(deadline) {
		select {
		case <-time.After(5 * time.Millisecond): // the database's own clock decides
		case <-t.Context().Done():
		}
	}
	if n := rows(); n != 1 {
		t.Errorf("%d rows are left", n)
	}
}

func TestWithoutTheDatabaseNothingIsAllowed(t *testing.T) {
	s := replica(t, opened(t))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Take(ctx, of(few, "one")); err == nil {
		t.Error("allowed")
	}
}

func TestOldRatesHoldWhileSomebodyReadsThemAnew(t *testing.T) {
	db := opened(t)
	begun := time.Now()
	var after atomic.Int64
	s := store.New(db, func() time.Time { return begun.Add(time.Duration(after.Load())) }, definitions)
	t.Cleanup(s.Close)
	_, err := s.Rate(t.Context(), few, pkitest.Demo)
	must(t, err)
	after.Store(int64(6 * time.Second))
	tx, err := db.Begin(t.Context())
	must(t, err)
	_, err = tx.Exec(t.Context(), `LOCK TABLE limit_override IN ACCESS EXCLUSIVE MODE`)
	must(t, err)
	read := make(chan error, 2)
	for range 2 { // one reads, and waits for the database; another asks in the meantime
		go func() {
			_, err := s.Rate(t.Context(), few, pkitest.Demo)
			read <- err
		}()
	}
	select {
	case err := <-read:
		must(t, err)
	case <-time.After(10 * time.Second):
		t.Error("all wait for one who reads the rates")
	}
	after.Store(int64(11 * time.Second)) // but not for long
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Rate(ended, few, pkitest.Demo); !errors.Is(err, context.Canceled) {
		t.Errorf("rates of long ago are believed: %v", err)
	}
	must(t, tx.Rollback(t.Context()))
	must(t, <-read)
}
