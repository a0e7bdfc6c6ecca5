package ledger_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/ca/ocsp"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/pkitest"
	"codeberg.org/dataverket/segl/internal/postgres"
)

// broken makes every insert into table fail, or only those that the condition describes, until the returned function runs.
func broken(t *testing.T, db *postgres.DB, table, condition string) (mend func()) {
	t.Helper()
	if condition != "" {
		condition = "WHEN (" + condition + ")"
	}
	run := func(sql string) {
		t.Helper()
		if _, err := db.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	run(`CREATE OR REPLACE FUNCTION break_it() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''broken by a test''; END'`)
	run(fmt.Sprintf(`CREATE TRIGGER broken BEFORE INSERT OR UPDATE ON %s FOR EACH ROW %s EXECUTE FUNCTION break_it()`, table, condition))
	return func() { t.Helper(); run(`DROP TRIGGER broken ON ` + table) }
}

// known returns the state of every serial in the ledger, and fails the test for an issued one that cannot be read.
func known(t *testing.T, h *pkitest.House) map[cert.Serial]ocsp.State {
	t.Helper()
	all, err := h.Ledger.Serials(t.Context(), cert.Serial{}, 10_000)
	must(t, err)
	var serials []cert.Serial
	for _, k := range all {
		serials = append(serials, k.Serial)
	}
	status, err := h.Ledger.Status(t.Context(), serials)
	must(t, err)
	states := map[cert.Serial]ocsp.State{}
	for _, s := range serials {
		states[s] = status[s].State
		if _, err := h.Certificate(t.Context(), s); (err == nil) != (status[s].State == ocsp.Good) && status[s].State != ocsp.Revoked {
			t.Errorf("%s is %d, read: %v", s, status[s].State, err)
		}
	}
	return states
}

func TestEachStepOfAnIssuanceFails(t *testing.T) {
	h := pkitest.New(t)
	for table, left := range map[string]int{"origin": 0, "intent": 0, "outcome": 1, "fact": 1} { // open intents
		t.Run(table, func(t *testing.T) {
			req := ca.Request{
				Scope: pkitest.Demo, Profile: "server", CSR: pkitest.CSR(t, pkitest.Key(t), "dns:a.demo.test"), Origin: ca.RequestOrigin(1, demo, table, nil),
			}
			was := known(t, h)
			mend := broken(t, h.DB, table, "")
			if c, err := h.Issue(t.Context(), demo, req); err == nil || c.DER != nil {
				t.Fatalf("answered %s", c.Serial)
			}
			for s, state := range known(t, h) {
				if _, ok := was[s]; !ok && state != ocsp.Open {
					t.Errorf("%s is %d, want open", s, state)
				}
			}
			if n := len(known(t, h)) - len(was); n != left {
				t.Errorf("%d intents are left, want %d", n, left)
			}
			mend()
			h.Advance(ca.DefaultAbandonAfter + 2*time.Second)
			if gone, err := h.Abandon(t.Context()); err != nil || len(gone) != left {
				t.Errorf("abandoned %v, %v; want %d", gone, err, left)
			}
			good(t, h, req)
		})
	}
}

// good shows that req is issued, known, answered and revocable.
func good(t *testing.T, h *pkitest.House, req ca.Request) {
	t.Helper()
	c, err := h.Issue(t.Context(), demo, req)
	must(t, err)
	if state := known(t, h)[c.Serial]; state != ocsp.Good {
		t.Fatalf("%s is %d, want good", c.Serial, state)
	}
	_, err = h.Revoke(t.Context(), demo, c.Serial, cert.Superseded)
	must(t, err)
	if state := known(t, h)[c.Serial]; state != ocsp.Revoked {
		t.Fatalf("%s is %d, want revoked", c.Serial, state)
	}
}

func TestEachStepOfARevocationFails(t *testing.T) {
	h := pkitest.New(t)
	for _, table := range []string{"revocation", "fact", "blocked_key"} {
		req := ca.Request{Scope: pkitest.Demo, Profile: "server", CSR: pkitest.CSR(t, pkitest.Key(t), "dns:a.demo.test")}
		c, err := h.Issue(t.Context(), demo, req)
		must(t, err)
		mend := broken(t, h.DB, table, "")
		if _, err := h.Revoke(t.Context(), demo, c.Serial, cert.KeyCompromise); err == nil {
			t.Errorf("%s: revoked", table)
		}
		mend()
		if state := known(t, h)[c.Serial]; state != ocsp.Good {
			t.Errorf("%s: %d, want good: half a revocation is none", table, state)
		}
		if _, err := h.Issue(t.Context(), demo, req); err != nil {
			t.Errorf("%s: the key is blocked though nothing was revoked: %v", table, err)
		}
		_, err = h.Revoke(t.Context(), demo, c.Serial, cert.KeyCompromise)
		must(t, err)
		if _, err := h.Issue(t.Context(), demo, req); !errors.Is(err, ca.ErrKeyBlocked) {
			t.Errorf("%s: the key was certified again: %v", table, err)
		}
	}
}

func TestEachStepOfAnAbandonmentFails(t *testing.T) {
	h := pkitest.New(t)
	_, err := h.Abandon(t.Context()) // makes the mark, so that it is moved below
	must(t, err)
	for _, table := range []string{"outcome", "fact", "revocation", "settled"} {
		in := intent(h.Now())
		must(t, h.Ledger.Intend(t.Context(), in))
		h.Advance(ca.DefaultAbandonAfter + 2*time.Second)
		mend := broken(t, h.DB, table, "")
		if gone, err := h.Abandon(t.Context()); err == nil {
			t.Errorf("%s: abandoned %v", table, gone)
		}
		mend()
		status, err := h.Ledger.Status(t.Context(), []cert.Serial{in.Serial})
		if err != nil || status[in.Serial].State != ocsp.Open {
			t.Errorf("%s: %+v, want open: %v", table, status, err)
		}
		if gone, err := h.Abandon(t.Context()); err != nil || len(gone) != 1 {
			t.Errorf("%s: mended, abandoned %v, %v", table, gone, err)
		}
	}
}

func TestEachStepOfAnInvitationFails(t *testing.T) {
	h := pkitest.New(t)
	for _, table := range []string{"enrolment", "fact"} {
		mend := broken(t, h.DB, table, "")
		if token, _, err := h.Invite(t.Context(), demo, ca.Invitation{Scope: pkitest.Demo, Workload: "web"}); err == nil || token != "" {
			t.Errorf("%s: invited", table)
		}
		mend()
	}
	if n := number(t, h.DB, `SELECT count(*) FROM enrolment`) + number(t, h.DB, `SELECT count(*) FROM fact WHERE what = 'enrolment.make'`); n != 0 {
		t.Errorf("%d rows of invitations that failed", n)
	}
	token, _, err := h.Invite(t.Context(), demo, ca.Invitation{Scope: pkitest.Demo, Workload: "web"})
	must(t, err)
	defer broken(t, h.DB, "fact", "NEW.what = 'enrolment.use'")()
	if c, err := h.Enrol(t.Context(), identity.Caller{}, token, pkitest.CSR(t, pkitest.Key(t))); err == nil {
		t.Errorf("enrolled %s without the fact of it", c.Serial)
	}
}

func TestOnePoisonedRowCostsTheOthersNothing(t *testing.T) {
	l, db := opened(t)
	const n, bad = 20, 7
	intents := make([]ca.Intent, n)
	for i := range intents {
		intents[i] = intent(time.Now())
	}
	poison := fmt.Sprintf(`NEW.serial = '\x%s'`, intents[bad].Serial)
	check := func(step string, errs []error) {
		t.Helper()
		for i, err := range errs {
			if (err != nil) != (i == bad) {
				t.Errorf("%s of %d: %v", step, i, err)
			}
		}
	}
	mend := broken(t, db, "intent", poison)
	check("intent", together(t, db, "blocked_key", n, func(i int) error { return l.Intend(t.Context(), intents[i]) }))
	mend()
	must(t, l.Intend(t.Context(), intents[bad]))
	mend = broken(t, db, "outcome", poison)
	check("signature", together(t, db, "outcome", n, func(i int) error { return l.Complete(t.Context(), completion(intents[i].Serial)) }))
	mend()
	must(t, l.Complete(t.Context(), completion(intents[bad].Serial)))
	mend = broken(t, db, "revocation", poison)
	check("revocation", together(t, db, "revocation", n, func(i int) error { return l.Revoke(t.Context(), revocation(intents[i].Serial)) }))
	mend()
	must(t, l.Revoke(t.Context(), revocation(intents[bad].Serial)))
	if n := number(t, db, `SELECT count(*) FROM fact WHERE serial IS NOT NULL`); n != 2*len(intents) {
		t.Errorf("%d facts, want two a certificate", n)
	}
}
