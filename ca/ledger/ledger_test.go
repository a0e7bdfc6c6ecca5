package ledger_test

import (
	"context"
	"crypto/rand"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/ca/ledger"
	"codeberg.org/dataverket/segl/ca/ocsp"
	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/pkitest"
	"codeberg.org/dataverket/segl/internal/postgres"
	"codeberg.org/dataverket/segl/internal/postgres/postgrestest"
	"codeberg.org/dataverket/segl/internal/tenancy"
	"codeberg.org/dataverket/segl/internal/uid"
)

var demo = pkitest.Workload(pkitest.Demo, "demo")

// opened returns a ledger without any CA above it: scopes and partitions, and nothing else.
func opened(t testing.TB) (*ledger.Ledger, *postgres.DB) {
	t.Helper()
	db := postgrestest.Open(t)
	scopes, err := tenancy.Open(t.Context(), db, time.Now)
	must(t, err)
	l := replica(t, db)
	_, err = l.MakeEpochs(t.Context(), time.Now())
	must(t, err)
	must(t, pkitest.Demonstrate(t.Context(), scopes))
	return l, db
}

func replica(t testing.TB, db *postgres.DB) *ledger.Ledger {
	l := ledger.New(db, 1)
	t.Cleanup(l.Close)
	return l
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// intent returns one that differs from every other.
func intent(at time.Time) ca.Intent {
	in := ca.Intent{
		Serial: cert.NewSerial(1, at), Authority: 1, Scope: pkitest.Demo, Profile: "server", NotAfter: at.Add(time.Hour).Truncate(time.Second), TBS: []byte("tbs"),
	}
	rand.Read(in.Key[:]) //nolint:errcheck // never returns one
	return in
}

func completion(s cert.Serial) ca.Completion {
	return ca.Completion{Serial: s, At: time.Now(), Signature: []byte("sig"), Facts: []audit.Fact{{At: time.Now(), Who: demo, Scope: pkitest.Demo, What: audit.Issue, Serial: s}}}
}

func revocation(s cert.Serial) ca.Revocation {
	return ca.Revocation{
		Serial: s, At: time.Now().Truncate(time.Second), Reason: cert.Superseded,
		Fact: audit.Fact{At: time.Now(), Who: demo, Scope: pkitest.Demo, What: audit.Revoke, Serial: s},
	}
}

// issued puts a completed certificate in the ledger.
func issued(t testing.TB, l *ledger.Ledger, in ca.Intent) cert.Serial {
	t.Helper()
	must(t, l.Intend(t.Context(), in))
	must(t, l.Complete(t.Context(), completion(in.Serial)))
	return in.Serial
}

// number runs a query that gives one.
func number(t testing.TB, db *postgres.DB, sql string, args ...any) (n int) {
	t.Helper()
	must(t, db.QueryRow(t.Context(), sql, args...).Scan(&n))
	return n
}

func TestIntendRefuses(t *testing.T) {
	l, db := opened(t)
	revoked, blocked := issued(t, l, intent(time.Now())), intent(time.Now())
	must(t, l.Revoke(t.Context(), revocation(revoked)))
	r := revocation(issued(t, l, blocked))
	r.Reason, r.BlockKey = cert.KeyCompromise, blocked.Key
	must(t, l.Revoke(t.Context(), r))
	taken := intent(time.Now())
	taken.Origin = ca.Origin{ID: uid.New(uid.Order, 1, time.Now())}
	taken.Origin.ID = uid.Derive(uid.Request, 1, time.Unix(0, 0), [32]byte{1})
	must(t, l.Intend(t.Context(), taken))
	was := number(t, db, `SELECT count(*) FROM intent`)
	for name, c := range map[string]struct {
		edit func(*ca.Intent)
		want error
	}{
		"an origin's attempt twice":  {func(in *ca.Intent) { in.Origin = taken.Origin }, ca.ErrOriginTaken},
		"a revoked caller":           {func(in *ca.Intent) { in.Caller = revoked }, ca.ErrCallerRevoked},
		"a revoked caller's origin":  {func(in *ca.Intent) { in.Caller, in.Origin = revoked, taken.Origin }, ca.ErrCallerRevoked},
		"a blocked key":              {func(in *ca.Intent) { in.Key = blocked.Key }, ca.ErrKeyBlocked},
		"a year-old clock":           {func(in *ca.Intent) { in.Serial = cert.NewSerial(1, time.Now().AddDate(-1, 0, 0)) }, ca.ErrUnavailable},
		"a clock years ahead":        {func(in *ca.Intent) { in.Serial = cert.NewSerial(1, time.Now().AddDate(3, 0, 0)) }, ca.ErrUnavailable},
		"another site":               {func(in *ca.Intent) { in.Serial = cert.NewSerial(9, time.Now()) }, ca.ErrUnavailable},
		"a scope that is not there":  {func(in *ca.Intent) { in.Scope = pkitest.Scope("nobody") }, nil},
		"a serial that is there":     {func(in *ca.Intent) { in.Serial = taken.Serial }, nil},
		"an origin without its week": {func(in *ca.Intent) { in.Origin.ID = uid.New(uid.Enrolment, 1, time.Now().AddDate(-1, 0, 0)) }, ca.ErrUnavailable},
	} {
		in := intent(time.Now())
		c.edit(&in)
		if err := l.Intend(t.Context(), in); err == nil || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		} else if errors.Is(c.want, ca.ErrUnavailable) && !strings.Contains(err.Error(), "no partition for this time: check the service's clock") {
			t.Errorf("%s: %v does not say what to do", name, err)
		}
	}
	if n := number(t, db, `SELECT count(*) FROM intent`); n != was {
		t.Errorf("refused intents are in the ledger: %d, were %d", n, was)
	}
	if n := number(t, db, `SELECT count(*) FROM origin`); n != 1 {
		t.Errorf("%d origins are claimed, want one", n)
	}
	next := taken
	next.Serial, next.Attempt = cert.NewSerial(1, time.Now()), 1
	must(t, l.Intend(t.Context(), next))
	if rec, err := l.ByOrigin(t.Context(), taken.Origin.ID); err != nil || rec.Serial != next.Serial || rec.Attempt != 1 {
		t.Errorf("the origin's latest attempt is %+v, %v", rec.Serial, err)
	}
}

func TestOneOutcomeAnIntent(t *testing.T) {
	l, db := opened(t)
	done, open, never := issued(t, l, intent(time.Now())), intent(time.Now().Add(-time.Minute)), intent(time.Now())
	must(t, l.Intend(t.Context(), open))
	gone, err := l.Abandon(t.Context(), time.Now().Add(-30*time.Second), audit.Fact{At: time.Now(), Who: identity.System("test"), What: audit.Abandon})
	if err != nil || !slices.Equal(gone, []cert.Serial{open.Serial}) {
		t.Fatalf("abandoned %v, %v", gone, err)
	}
	for name, s := range map[string]cert.Serial{"completed": done, "abandoned": open.Serial, "never intended": never.Serial} {
		if err := l.Complete(t.Context(), completion(s)); !errors.Is(err, ca.ErrSettled) {
			t.Errorf("%s: %v, want ErrSettled", name, err)
		}
	}
	if n := number(t, db, `SELECT count(*) FROM fact WHERE what = 'certificate.issue'`); n != 1 {
		t.Errorf("%d facts of issuance, want one", n)
	}
}

func TestRevokeHasFourAnswers(t *testing.T) {
	l, db := opened(t)
	a, b := issued(t, l, intent(time.Now())), issued(t, l, intent(time.Now()))
	must(t, l.Revoke(t.Context(), revocation(a)))
	by := revocation(b)
	by.Caller = a
	for name, c := range map[string]struct {
		r    ca.Revocation
		want error
	}{
		"again":            {revocation(a), ca.ErrAlreadyRevoked},
		"never intended":   {revocation(cert.NewSerial(1, time.Now())), ca.ErrNotFound},
		"another site's":   {revocation(cert.NewSerial(7, time.Now())), ca.ErrNotFound},
		"by a revoked one": {by, ca.ErrCallerRevoked},
	} {
		if err := l.Revoke(t.Context(), c.r); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	if n := number(t, db, `SELECT count(*) FROM fact WHERE what = 'certificate.revoke'`); n != 1 {
		t.Errorf("%d facts of revocation, want one", n)
	}
}

// atOnce calls do from several goroutines and returns what each said.
func atOnce(n int, do func(i int) error) []error {
	errs := make([]error, n)
	var wait sync.WaitGroup
	for i := range n {
		wait.Go(func() { errs[i] = do(i) })
	}
	wait.Wait()
	return errs
}

// won counts those that succeeded, and fails the test for any that failed but with want.
func won(t *testing.T, errs []error, want error) (n int) {
	t.Helper()
	for _, err := range errs {
		switch {
		case err == nil:
			n++
		case !errors.Is(err, want):
			t.Errorf("%v, want %v", err, want)
		}
	}
	return n
}

func TestRacesHaveOneWinner(t *testing.T) {
	one, db := opened(t)
	both := []*ledger.Ledger{one, replica(t, db)}
	for round := range 5 {
		origin := uid.Derive(uid.Request, 1, time.Unix(0, 0), [32]byte{byte(round)})
		errs := atOnce(16, func(i int) error {
			in := intent(time.Now())
			in.Origin.ID = origin
			return both[i%2].Intend(t.Context(), in)
		})
		if n := won(t, errs, ca.ErrOriginTaken); n != 1 {
			t.Errorf("%d of 16 intents have the origin, want one", n)
		}
		in := intent(time.Now())
		must(t, one.Intend(t.Context(), in))
		errs = atOnce(16, func(i int) error { return both[i%2].Complete(t.Context(), completion(in.Serial)) })
		if n := won(t, errs, ca.ErrSettled); n != 1 {
			t.Errorf("%d of 16 completions hold, want one", n)
		}
		errs = atOnce(16, func(i int) error { return both[i%2].Revoke(t.Context(), revocation(in.Serial)) })
		if n := won(t, errs, ca.ErrAlreadyRevoked); n != 1 {
			t.Errorf("%d of 16 revocations hold, want one", n)
		}
		if n := number(t, db, `SELECT count(*) FROM fact WHERE serial = $1`, in.Serial.Bytes()); n != 2 {
			t.Errorf("%d facts, want one of issuance and one of revocation", n)
		}
	}
}

func TestRepeatsInOneBatchAreRepeats(t *testing.T) {
	l, db := opened(t)
	in := intent(time.Now())
	must(t, l.Intend(t.Context(), in))
	errs := together(t, db, "outcome", 12, func(int) error { return l.Complete(t.Context(), completion(in.Serial)) })
	if n := won(t, errs, ca.ErrSettled); n != 1 {
		t.Errorf("%d of 12 completions hold, want one", n)
	}
	errs = together(t, db, "revocation", 12, func(int) error { return l.Revoke(t.Context(), revocation(in.Serial)) })
	if n := won(t, errs, ca.ErrAlreadyRevoked); n != 1 {
		t.Errorf("%d of 12 revocations hold, want one", n)
	}
	if n := number(t, db, `SELECT count(*) FROM fact WHERE serial = $1`, in.Serial.Bytes()); n != 2 {
		t.Errorf("%d facts, want one of issuance and one of revocation", n)
	}
}

// together makes writes share batches: the first waits for a lock on table, the rest gather behind it.
func together(t *testing.T, db *postgres.DB, table string, n int, do func(i int) error) []error {
	t.Helper()
	tx, err := db.Begin(t.Context())
	must(t, err)
	defer tx.Rollback(context.WithoutCancel(t.Context())) //nolint:errcheck // it only locks
	_, err = tx.Exec(t.Context(), `LOCK TABLE `+table+` IN ACCESS EXCLUSIVE MODE`)
	must(t, err)
	done := make(chan []error)
	go func() { done <- atOnce(n, do) }()
	for number(t, db, `SELECT count(*) FROM pg_locks WHERE NOT granted`) == 0 {
		must(t, t.Context().Err())
	}
	must(t, tx.Rollback(t.Context()))
	return <-done
}

func TestCompleteAndAbandonExcludeOneAnother(t *testing.T) {
	l, db := opened(t)
	other := replica(t, db)
	const n = 40
	serials := make([]cert.Serial, n)
	for i := range serials {
		in := intent(time.Now().Add(-time.Minute))
		serials[i] = in.Serial
		must(t, l.Intend(t.Context(), in))
	}
	var gone []cert.Serial
	errs := atOnce(n+1, func(i int) (err error) {
		if i == n {
			gone, err = other.Abandon(t.Context(), time.Now().Add(-30*time.Second), audit.Fact{At: time.Now(), Who: identity.System("test"), What: audit.Abandon})
			return err
		}
		return l.Complete(t.Context(), completion(serials[i]))
	})
	must(t, errs[n])
	abandoned := map[cert.Serial]bool{}
	for _, s := range gone {
		abandoned[s] = true
	}
	status, err := l.Status(t.Context(), serials)
	must(t, err)
	for _, s := range serials {
		if want := (status[s].State == ocsp.Revoked); abandoned[s] != want || status[s].State == ocsp.Unknown {
			t.Errorf("%s: abandoned %t, status %+v", s, abandoned[s], status[s])
		}
	}
	for i, s := range serials {
		if (errs[i] == nil) == abandoned[s] {
			t.Errorf("%s: completed %v, abandoned %t", s, errs[i], abandoned[s])
		}
	}
}

func TestAddEnrolmentRefuses(t *testing.T) {
	l, db := opened(t)
	revoked := issued(t, l, intent(time.Now()))
	must(t, l.Revoke(t.Context(), revocation(revoked)))
	good := func() (ca.Enrolment, audit.Fact) {
		return ca.Enrolment{Token: uid.New(uid.Enrolment, 1, time.Now()), Scope: pkitest.Demo, Profile: "workload", ID: demo.ID, MadeAt: time.Now(), Expires: time.Now()},
			audit.Fact{At: time.Now(), Who: demo, Scope: pkitest.Demo, What: audit.EnrolmentMade}
	}
	for name, c := range map[string]struct {
		edit func(*ca.Enrolment, *audit.Fact)
		want error
	}{
		"a scope that is not there": {func(e *ca.Enrolment, _ *audit.Fact) { e.Scope = pkitest.Scope("nobody") }, ca.ErrNotFound},
		"a revoked caller":          {func(_ *ca.Enrolment, f *audit.Fact) { f.Who.Serial = revoked }, ca.ErrCallerRevoked},
		"a year-old clock": {func(e *ca.Enrolment, _ *audit.Fact) {
			e.Token = uid.New(uid.Enrolment, 1, time.Now().AddDate(-1, 0, 0))
		}, ca.ErrUnavailable},
	} {
		e, f := good()
		c.edit(&e, &f)
		if err := l.AddEnrolment(t.Context(), e, f); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
		if _, err := l.Enrolment(t.Context(), e.Token); !errors.Is(err, ca.ErrNotFound) {
			t.Errorf("%s: the token is there: %v", name, err)
		}
	}
	if n := number(t, db, `SELECT count(*) FROM fact WHERE what = 'enrolment.make'`); n != 0 {
		t.Errorf("%d facts of tokens that were not made", n)
	}
	e, f := good()
	e.Names = []cert.Name{cert.IPName(demo.Remote)}[:0]
	must(t, l.AddEnrolment(t.Context(), e, f))
	if err := l.AddEnrolment(t.Context(), e, f); !errors.Is(err, ca.ErrConflict) {
		t.Errorf("the same token twice: %v", err)
	}
	if got, err := l.Enrolment(t.Context(), e.Token); err != nil || got.ID != e.ID || got.Scope != e.Scope || got.Hash != e.Hash {
		t.Errorf("read back %+v, %v", got, err)
	}
}

func TestStatusOfEveryState(t *testing.T) {
	l, _ := opened(t)
	good, revoked, open, old, never := issued(t, l, intent(time.Now())), issued(t, l, intent(time.Now())), intent(time.Now()), intent(time.Now().Add(-time.Minute)), intent(time.Now())
	must(t, l.Revoke(t.Context(), revocation(revoked)))
	must(t, l.Intend(t.Context(), old))
	_, err := l.Abandon(t.Context(), time.Now().Add(-30*time.Second), audit.Fact{At: time.Now(), Who: identity.System("test"), What: audit.Abandon})
	must(t, err)
	must(t, l.Intend(t.Context(), open))
	ask := map[cert.Serial]ocsp.Status{
		good:         {State: ocsp.Good, Authority: 1},
		revoked:      {State: ocsp.Revoked, Authority: 1, Reason: cert.Superseded},
		open.Serial:  {State: ocsp.Open, Authority: 1},
		old.Serial:   {State: ocsp.Revoked, Authority: 1, Reason: cert.Unspecified},
		never.Serial: {},
		{}:           {},
	}
	var serials []cert.Serial
	for s := range ask {
		serials = append(serials, s)
	}
	got, err := l.Status(t.Context(), serials)
	must(t, err)
	for s, want := range ask {
		st, ok := got[s]
		st.At = time.Time{}
		if st != want || ok == (want == ocsp.Status{}) {
			t.Errorf("%s: %+v, want %+v", s, st, want)
		}
	}
	for s, want := range map[cert.Serial]error{good: nil, revoked: ca.ErrCallerRevoked, open.Serial: ca.ErrNotFound, old.Serial: ca.ErrCallerRevoked, never.Serial: ca.ErrNotFound, {}: ca.ErrNotFound} {
		if err := l.Stands(t.Context(), s); !errors.Is(err, want) {
			t.Errorf("%s stands: %v, want %v", s, err, want)
		}
	}
	if _, err := l.BySerial(t.Context(), never.Serial); !errors.Is(err, ca.ErrNotFound) {
		t.Errorf("never intended: %v", err)
	}
	if _, err := l.ByOrigin(t.Context(), uid.New(uid.Order, 1, time.Now())); !errors.Is(err, ca.ErrNotFound) {
		t.Errorf("no such origin: %v", err)
	}
}

func TestAnExhaustedPoolIsUnavailabilityInTime(t *testing.T) {
	l, db := opened(t)
	for range db.Config().MaxConns { // nobody gives theirs back
		conn, err := db.Acquire(t.Context())
		must(t, err)
		defer conn.Release()
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	began := time.Now()
	if err := l.Intend(ctx, intent(time.Now())); !errors.Is(err, ca.ErrUnavailable) {
		t.Errorf("%v, want ErrUnavailable", err)
	}
	if waited := time.Since(began); waited > 5*time.Second {
		t.Errorf("waited %s for a deadline of 200 ms", waited)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.Intend(gone, intent(time.Now())); !errors.Is(err, context.Canceled) || errors.Is(err, ca.ErrUnavailable) {
		t.Errorf("a caller who has gone: %v", err)
	}
}
