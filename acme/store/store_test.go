package store_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"codeberg.org/dataverket/segl/acme"
	"codeberg.org/dataverket/segl/acme/store"
	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/pkitest"
	"codeberg.org/dataverket/segl/internal/uid"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// A rig is one database and a store in it.
type rig struct {
	*pkitest.House
	*store.Store
}

func newRig(t *testing.T) *rig {
	t.Helper()
	h := pkitest.New(t)
	s := store.New(h.DB, h.Now)
	t.Cleanup(s.Close)
	return &rig{h, s}
}

func (r *rig) account(t *testing.T) acme.Account { return r.accountOf(t, pkitest.Demo) }

func (r *rig) accountOf(t *testing.T, scope identity.Scope) acme.Account {
	t.Helper()
	key := pkitest.Key(t).Public()
	id, err := cert.KeyIDOf(key)
	must(t, err)
	a := acme.Account{
		ID: uid.New(uid.Account, 1, r.Now()), Scope: scope, Key: key, KeyID: id, Thumbprint: "thumb", Contact: []string{"mailto:a@demo.test"},
		TermsAgreed: true, Created: r.Now().UTC().Truncate(time.Microsecond),
	}
	got, made, err := r.CreateAccount(t.Context(), a, fact(r, a.ID))
	must(t, err)
	if !made || got.ID != a.ID {
		t.Fatalf("made %v, %v", got, made)
	}
	return a
}

func fact(r *rig, id uid.UID) audit.Fact {
	return audit.Fact{At: r.Now(), Who: identity.System("test"), Scope: pkitest.Demo, What: audit.AccountCreated, Subject: id.String()}
}

func (r *rig) order(t *testing.T, a acme.Account, names ...string) acme.Order {
	t.Helper()
	now := r.Now().UTC().Truncate(time.Microsecond)
	o := acme.Order{ID: uid.New(uid.Order, 1, now), Account: a.ID, Scope: a.Scope, Profile: "server", Expires: now.Add(time.Hour)}
	for i, s := range names {
		n, err := cert.ParseName(s)
		must(t, err)
		o.Names = append(o.Names, n)
		o.Authorizations = append(o.Authorizations, acme.Authorization{
			ID: uid.New(uid.Authorization, 1, now), Account: a.ID, Name: n, Token: acme.Token{byte(i), 1}, Expires: now.Add(time.Hour),
		})
	}
	must(t, r.CreateOrder(t.Context(), o))
	return o
}

func TestAnAccountIsReadAsItWasWritten(t *testing.T) {
	r := newRig(t)
	a := r.account(t)
	byID, err := r.Account(t.Context(), a.ID)
	must(t, err)
	byKey, err := r.AccountByKey(t.Context(), a.Scope, a.KeyID)
	must(t, err)
	for _, got := range []acme.Account{byID, byKey} {
		if got.ID != a.ID || got.Scope != a.Scope || got.KeyID != a.KeyID || got.Thumbprint != a.Thumbprint || !got.TermsAgreed ||
			len(got.Contact) != 1 || !got.Created.Equal(a.Created) || got.Status() != acme.Valid {
			t.Errorf("read %+v, wrote %+v", got, a)
		}
	}
	a.Deactivated, a.Contact = r.Now().UTC().Truncate(time.Microsecond), nil
	must(t, r.UpdateAccount(t.Context(), a, fact(r, a.ID)))
	first := a.Deactivated
	a.Deactivated = a.Deactivated.Add(time.Hour)
	must(t, r.UpdateAccount(t.Context(), a, fact(r, a.ID)))
	got, err := r.Account(t.Context(), a.ID)
	must(t, err)
	if got.Status() != acme.Deactivated || !got.Deactivated.Equal(first) || len(got.Contact) != 0 {
		t.Errorf("deactivated account %+v: the first time counts", got)
	}
}

func TestAKeyHasOneAccountAScope(t *testing.T) {
	r := newRig(t)
	a := r.account(t)
	again := a
	again.ID = uid.New(uid.Account, 1, r.Now())
	got, made, err := r.CreateAccount(t.Context(), again, fact(r, again.ID))
	must(t, err)
	if made || got.ID != a.ID {
		t.Errorf("the same key made %v", got.ID)
	}
	again.Scope = pkitest.Scope("other")
	if _, made, err = r.CreateAccount(t.Context(), again, fact(r, again.ID)); err != nil || !made {
		t.Errorf("the same key in another scope: %v, %v", made, err)
	}
	var facts int
	must(t, r.DB.QueryRow(t.Context(), `SELECT count(*) FROM fact WHERE what = 'account.create'`).Scan(&facts))
	if facts != 2 {
		t.Errorf("%d facts of two accounts", facts)
	}
	again.ID, again.Scope = uid.New(uid.Account, 1, r.Now()), pkitest.Scope("nobody")
	if _, _, err = r.CreateAccount(t.Context(), again, fact(r, again.ID)); !errors.Is(err, acme.ErrNotFound) {
		t.Errorf("an account of no scope: %v", err)
	}
}

func TestNothingIsNotFound(t *testing.T) {
	r := newRig(t)
	now := r.Now()
	_, err1 := r.Account(t.Context(), uid.New(uid.Account, 1, now))
	_, err2 := r.Order(t.Context(), uid.New(uid.Order, 1, now))
	_, err3 := r.Authorization(t.Context(), uid.New(uid.Authorization, 1, now))
	_, err4 := r.OrderAccount(t.Context(), uid.New(uid.Order, 1, now.AddDate(-3, 0, 0))) // of an epoch with no partition
	_, _, err5 := r.Attempt(t.Context(), acme.Ask{Account: uid.New(uid.Account, 1, now), Authorization: uid.New(uid.Authorization, 1, now), Method: acme.HTTP01, At: now, Lease: time.Minute})
	err6 := r.UpdateAccount(t.Context(), acme.Account{ID: uid.New(uid.Account, 1, now)}, audit.Fact{At: now})
	for i, err := range []error{err1, err2, err3, err4, err5, err6} {
		if !errors.Is(err, acme.ErrNotFound) {
			t.Errorf("%d: %v", i+1, err)
		}
	}
}

func TestAnOrderIsReadAsItWasWritten(t *testing.T) {
	r := newRig(t)
	o := r.order(t, r.account(t), "dns:b.demo.test", "dns:*.demo.test", "ip:127.0.0.1", "dns:a.demo.test")
	got, err := r.Order(t.Context(), o.ID)
	must(t, err)
	if got.ID != o.ID || got.Account != o.Account || got.Scope != o.Scope || got.Profile != o.Profile || !got.Expires.Equal(o.Expires) || len(got.Names) != 4 {
		t.Fatalf("read %+v, wrote %+v", got, o)
	}
	for i := range o.Names {
		if got.Names[i] != o.Names[i] || got.Authorizations[i].ID != o.Authorizations[i].ID || got.Authorizations[i].Name != o.Names[i] ||
			got.Authorizations[i].Token != o.Authorizations[i].Token {
			t.Errorf("name %d: read %+v, wrote %+v", i, got.Authorizations[i], o.Authorizations[i])
		}
	}
	owner, err := r.OrderAccount(t.Context(), o.ID)
	if err != nil || owner != o.Account {
		t.Errorf("owner %v, %v", owner, err)
	}
}

func TestAValidationIsAskedForOnceAndSettledOnce(t *testing.T) {
	r := newRig(t)
	a := r.account(t)
	o := r.order(t, a, "dns:a.demo.test")
	id := o.Authorizations[0].ID
	for i, want := range []bool{true, false} {
		got, ours, err := r.Attempt(t.Context(), acme.Ask{Account: a.ID, Authorization: id, Method: acme.HTTP01, At: r.Now(), Lease: time.Minute})
		must(t, err)
		if ours != want || got.Attempt == nil || got.Attempt.Method != acme.HTTP01 {
			t.Errorf("attempt %d: %+v, ours %v", i+1, got, ours)
		}
	}
	if tasks, err := r.TakeOver(t.Context(), r.Now(), time.Minute, 10); err != nil || len(tasks) != 0 {
		t.Errorf("took over a live lease: %v, %v", tasks, err)
	}
	must(t, r.Release(t.Context(), id))
	tasks, err := r.TakeOver(t.Context(), r.Now(), time.Minute, 10)
	must(t, err)
	if len(tasks) != 1 || tasks[0].Authorization.ID != id || tasks[0].Scope != a.Scope || tasks[0].Thumbprint != a.Thumbprint ||
		tasks[0].Authorization.Attempt.Method != acme.HTTP01 || tasks[0].Authorization.Token != o.Authorizations[0].Token {
		t.Fatalf("took over %+v", tasks)
	}
	bad := acme.Validation{Method: acme.HTTP01, At: r.Now(), Problem: acme.NewProblem(acme.Connection, "refused")}
	good := acme.Validation{Method: acme.HTTP01, At: r.Now(), Evidence: "127.0.0.1:80"}
	for i, v := range []acme.Validation{bad, good} { // the second is too late
		counts, err := r.Settle(t.Context(), id, true, v, fact(r, id))
		must(t, err)
		if counts != (i == 0) {
			t.Errorf("outcome %d counts: %v", i+1, counts)
		}
	}
	got, err := r.Authorization(t.Context(), id)
	must(t, err)
	if got.Attempt != nil || got.Validation == nil || got.Validation.Problem == nil || got.Validation.Problem.Type != acme.Connection {
		t.Errorf("settled %+v", got)
	}
	var facts int
	must(t, r.DB.QueryRow(t.Context(), `SELECT count(*) FROM fact WHERE subject = $1`, id.String()).Scan(&facts))
	if facts != 1 {
		t.Errorf("%d facts: only the outcome that counts has one", facts)
	}
	if _, ours, err := r.Attempt(t.Context(), acme.Ask{Account: a.ID, Authorization: id, Method: acme.DNS01, At: r.Now(), Lease: time.Minute}); err != nil || ours {
		t.Errorf("a settled authorization was attempted: %v, %v", ours, err)
	}
}

func TestAttemptRefuses(t *testing.T) {
	r := newRig(t)
	a, b := r.account(t), r.account(t)
	o := r.order(t, a, "dns:*.demo.test", "ip:127.0.0.1", "dns:a.demo.test")
	wild, ip, plain := o.Authorizations[0].ID, o.Authorizations[1].ID, o.Authorizations[2].ID
	for name, c := range map[string]struct {
		who, id uid.UID
		m       acme.Method
		at      time.Time
		missing bool
	}{
		"a wildcard by http-01":     {a.ID, wild, acme.HTTP01, r.Now(), true},
		"a wildcard by tls-alpn-01": {a.ID, wild, acme.TLSALPN01, r.Now(), true},
		"an address by dns-01":      {a.ID, ip, acme.DNS01, r.Now(), true},
		"an unknown method":         {a.ID, plain, "x", r.Now(), true},
		"another account":           {b.ID, plain, acme.HTTP01, r.Now(), true},
		"after it expired":          {a.ID, plain, acme.HTTP01, r.Now().Add(2 * time.Hour), false},
	} {
		_, ours, err := r.Attempt(t.Context(), acme.Ask{Account: c.who, Authorization: c.id, Method: c.m, At: c.at, Lease: time.Minute})
		if ours || errors.Is(err, acme.ErrNotFound) != c.missing {
			t.Errorf("%s: %v, %v", name, ours, err)
		}
	}
	var n int
	must(t, r.DB.QueryRow(t.Context(), `SELECT count(*) FROM acme_attempt`).Scan(&n))
	if n != 0 {
		t.Errorf("%d attempts were recorded", n)
	}
}

func TestAFinalizationIsClaimedOnce(t *testing.T) {
	r := newRig(t)
	a := r.account(t)
	o := r.order(t, a, "dns:a.demo.test")
	csr := pkitest.CSR(t, pkitest.Key(t), "dns:a.demo.test")
	f := acme.Finalization{At: r.Now().UTC().Truncate(time.Microsecond), Key: csr.Key, SPKI: csr.SPKI, KeyID: csr.KeyID}
	own := f
	own.KeyID = a.KeyID
	if did, err := r.Finalize(t.Context(), o.ID, own); err != nil || did.Claimed || !did.KeyOfAccount {
		t.Errorf("an account's key: %+v, %v", did, err)
	}
	for i, want := range []bool{true, false} {
		if did, err := r.Finalize(t.Context(), o.ID, f); err != nil || did.Claimed != want || did.KeyOfAccount {
			t.Errorf("finalization %d: %+v, %v", i+1, did, err)
		}
	}
	got, err := r.Order(t.Context(), o.ID)
	must(t, err)
	if got.Finalization == nil || got.Finalization.KeyID != f.KeyID || !got.Finalization.At.Equal(f.At) || got.Status(r.Now()) != acme.Processing {
		t.Errorf("order %+v", got)
	}
	if left, err := r.unissued(t, f.At, 10); err != nil || len(left) != 0 {
		t.Errorf("too early: %v, %v", left, err)
	}
	left, err := r.unissued(t, f.At.Add(time.Second), 10)
	must(t, err)
	if len(left) != 1 || left[0].ID != o.ID {
		t.Fatalf("unissued %v", left)
	}
	must(t, r.Fail(t.Context(), o.ID, r.Now(), acme.NewProblem(acme.BadCSR, "no")))
	must(t, r.Fail(t.Context(), o.ID, r.Now(), acme.NewProblem(acme.ServerInternal, "later")))
	if got, err = r.Order(t.Context(), o.ID); err != nil || got.Failure == nil || got.Failure.Type != acme.BadCSR || got.Status(r.Now()) != acme.Invalid {
		t.Errorf("failed order %+v, %v", got, err)
	}
	if left, err = r.unissued(t, f.At.Add(time.Second), 10); err != nil || len(left) != 0 {
		t.Errorf("a failed order is unissued: %v, %v", left, err)
	}
}

func TestNoNonceSurvivesACrashOfTheDatabase(t *testing.T) {
	r := newRig(t)
	other := store.New(r.DB, r.Now)
	t.Cleanup(other.Close)
	spent, unspent := r.nonce(t), r.nonce(t)
	if !r.admit(t, r.Store, spent) {
		t.Fatal("a fresh nonce was refused")
	}
	if !r.admit(t, other, r.nonce(t)) {
		t.Fatal("a fresh nonce was refused by another replica")
	}
	// What crash recovery does to unlogged tables (https://www.postgresql.org/docs/current/sql-createtable.html#SQL-CREATETABLE-UNLOGGED).
	_, err := r.DB.Exec(t.Context(), `TRUNCATE acme_boot, acme_nonce`)
	must(t, err)
	for name, n := range map[string]string{"spent": spent, "unspent": unspent} {
		for _, s := range []*store.Store{r.Store, other} {
			if r.admit(t, s, n) {
				t.Errorf("a nonce %s before the crash was taken", name)
			}
		}
	}
	fresh, err := other.Nonce(t.Context()) // under the new key, or refused once more until it is asked for
	must(t, err)
	r.admit(t, other, fresh)
	deadline := time.Now().Add(10 * time.Second)
	for !r.admit(t, r.Store, r.nonce(t)) {
		if time.Now().After(deadline) {
			t.Fatal("no nonce is taken any more")
		}
		<-time.After(100 * time.Millisecond) // the key is asked for at most once a second
	}
}

func (r *rig) nonce(t *testing.T) string {
	t.Helper()
	n, err := r.Nonce(t.Context())
	must(t, err)
	return n
}

func (r *rig) admit(t *testing.T, s *store.Store, nonce string) bool {
	t.Helper()
	st, err := s.Admit(t.Context(), nonce, uid.UID{}, uid.UID{})
	must(t, err)
	return st.Fresh
}

func TestNoncesAreTakenOnceAcrossBlocksAndSwept(t *testing.T) {
	r := newRig(t)
	seen := map[string]bool{}
	var all []string
	for range 1100 { // two blocks and some
		n := r.nonce(t)
		if seen[n] || len(n) != 40 || strings.ContainsAny(n, "=+/") {
			t.Fatalf("nonce %q", n)
		}
		seen[n] = true
		all = append(all, n)
	}
	for i := 0; i < len(all); i += 7 {
		if !r.admit(t, r.Store, all[i]) || r.admit(t, r.Store, all[i]) {
			t.Fatalf("nonce %d was not taken exactly once", i)
		}
	}
	rows := func() (n int) {
		must(t, r.DB.QueryRow(t.Context(), `SELECT count(*) FROM acme_nonce`).Scan(&n))
		return n
	}
	if n := rows(); n != 3 {
		t.Errorf("%d rows of three blocks", n)
	}
	must(t, r.Sweep(t.Context()))
	if n := rows(); n != 3 {
		t.Errorf("swept too early: %d rows", n)
	}
	r.Advance(2 * time.Hour)
	must(t, r.Sweep(t.Context()))
	if n := rows(); n != 0 {
		t.Errorf("%d rows are left", n)
	}
	if r.admit(t, r.Store, all[1]) {
		t.Error("an old nonce was taken once its row was gone")
	}
}

func TestAdmissionTellsHowAnAccountStands(t *testing.T) {
	r := newRig(t)
	a := r.account(t)
	st, err := r.Admit(t.Context(), r.nonce(t), a.ID, uid.UID{})
	if err != nil || !st.Fresh || !st.Known || st.KeyID != a.KeyID || st.Deactivated {
		t.Errorf("standing %+v, %v", st, err)
	}
	if st, err = r.Admit(t.Context(), r.nonce(t), uid.New(uid.Account, 1, r.Now()), uid.UID{}); err != nil || st.Known || !st.Fresh {
		t.Errorf("nobody's standing %+v, %v", st, err)
	}
	a.Deactivated = r.Now()
	must(t, r.UpdateAccount(t.Context(), a, fact(r, a.ID)))
	if st, err = r.Admit(t.Context(), r.nonce(t), a.ID, uid.UID{}); err != nil || !st.Deactivated {
		t.Errorf("a deactivated account's standing %+v, %v", st, err)
	}
}

func TestAdmissionReadsTheAuthorizationAskedFor(t *testing.T) {
	r := newRig(t)
	a := r.account(t)
	z := r.order(t, a, "dns:a.demo.test").Authorizations[0]
	st, err := r.Admit(t.Context(), r.nonce(t), a.ID, z.ID)
	if err != nil || !st.Fresh || st.Claim == nil || st.Claim.ID != z.ID || st.Claim.Token != z.Token || st.Claim.Status(r.Now()) != acme.Pending {
		t.Errorf("standing %+v, %v", st, err)
	}
	_, err = r.Settle(t.Context(), z.ID, false, acme.Validation{Method: acme.HTTP01, At: r.Now(), Evidence: "127.0.0.1:80"})
	must(t, err)
	if st, err = r.Admit(t.Context(), r.nonce(t), a.ID, z.ID); err != nil || st.Claim == nil || st.Claim.Status(r.Now()) != acme.Valid {
		t.Errorf("standing %+v, %v", st, err)
	}
	if st, err = r.Admit(t.Context(), r.nonce(t), a.ID, uid.New(uid.Authorization, 1, r.Now())); err != nil || !st.Fresh || st.Claim != nil {
		t.Errorf("of what is not there: %+v, %v", st, err)
	}
}
