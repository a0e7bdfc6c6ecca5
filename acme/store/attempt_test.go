package store_test

import (
	"errors"
	"testing"
	"time"

	"codeberg.org/dataverket/segl/acme"
	"codeberg.org/dataverket/segl/internal/pkitest"
	"codeberg.org/dataverket/segl/internal/uid"
)

func (r *rig) ask(account, id uid.UID) acme.Ask {
	return acme.Ask{Account: account, Authorization: id, Method: acme.HTTP01, At: r.Now(), Lease: time.Minute}
}

func TestAFailedTryIsDueAgainWhenItsScheduleSays(t *testing.T) {
	r := newRig(t)
	a := r.account(t)
	id := r.order(t, a, "dns:a.demo.test").Authorizations[0].ID
	at := r.Now().UTC().Truncate(time.Microsecond)
	failed := acme.NewProblem(acme.Connection, "refused")
	must(t, r.Retry(t.Context(), r.ask(a.ID, id), 1, acme.Attempt{Problem: failed, Next: at.Add(time.Minute)}))
	got, err := r.Authorization(t.Context(), id)
	must(t, err)
	if got.Attempt == nil || got.Attempt.Problem == nil || got.Attempt.Problem.Detail != "refused" || !got.Attempt.Next.Equal(at.Add(time.Minute)) {
		t.Fatalf("attempt %+v", got.Attempt)
	}
	if tasks, err := r.TakeOver(t.Context(), at.Add(59*time.Second), time.Minute, 10); err != nil || len(tasks) != 0 {
		t.Errorf("taken over before it is due: %v, %v", tasks, err)
	}
	tasks, err := r.TakeOver(t.Context(), at.Add(time.Minute), time.Minute, 10)
	must(t, err)
	if len(tasks) != 1 || tasks[0].Tries != 2 || tasks[0].Authorization.Attempt.Problem.Detail != "refused" {
		t.Fatalf("took over %+v", tasks)
	}
	if again, err := r.TakeOver(t.Context(), at.Add(time.Hour), time.Minute, 10); err != nil || len(again) != 0 {
		t.Errorf("taken over from who is at it: %v, %v", again, err)
	}
	if ours, err := r.Begin(t.Context(), tasks[0], time.Minute); err != nil || !ours {
		t.Errorf("begun: %v, %v", ours, err)
	}
	// A try by whoever did not know of the first counts no less.
	must(t, r.Retry(t.Context(), r.ask(a.ID, id), 1, acme.Attempt{Problem: failed, Next: at}))
	if tasks, err = r.TakeOver(t.Context(), at, time.Minute, 10); err != nil || len(tasks) != 1 || tasks[0].Tries != 3 {
		t.Errorf("took over %+v, %v", tasks, err)
	}
}

func TestASettledAuthorizationIsNotTriedAgain(t *testing.T) {
	r := newRig(t)
	a := r.account(t)
	id := r.order(t, a, "dns:a.demo.test").Authorizations[0].ID
	_, err := r.Settle(t.Context(), id, false, acme.Validation{Method: acme.HTTP01, At: r.Now(), Evidence: "x"})
	must(t, err)
	must(t, r.Retry(t.Context(), r.ask(a.ID, id), 1, acme.Attempt{Problem: acme.NewProblem(acme.DNS, "x"), Next: r.Now()}))
	if tasks, err := r.TakeOver(t.Context(), r.Now().Add(time.Hour), time.Minute, 10); err != nil || len(tasks) != 0 {
		t.Errorf("took over %+v, %v", tasks, err)
	}
}

func TestAccountsTakeTurnsInTheQueue(t *testing.T) {
	r := newRig(t)
	many, few := r.account(t), r.account(t)
	for range 5 {
		o := r.order(t, many, "dns:a.demo.test")
		ask := r.ask(many.ID, o.Authorizations[0].ID)
		ask.Lease = 0
		_, _, err := r.Attempt(t.Context(), ask)
		must(t, err)
	}
	late := r.ask(few.ID, r.order(t, few, "dns:b.demo.test").Authorizations[0].ID)
	late.Lease, late.At = 0, late.At.Add(time.Second)
	_, _, err := r.Attempt(t.Context(), late)
	must(t, err)
	tasks, err := r.TakeOver(t.Context(), r.Now().Add(time.Minute), time.Minute, 2)
	must(t, err)
	whose := map[uid.UID]int{}
	for _, task := range tasks {
		whose[task.Authorization.Account]++
	}
	if len(tasks) != 2 || whose[few.ID] != 1 {
		t.Errorf("took over %v of many and %v of few", whose[many.ID], whose[few.ID])
	}
}

func TestScopesTakeTurnsInTheQueue(t *testing.T) {
	r := newRig(t)
	queued := func(a acme.Account, after time.Duration) {
		t.Helper()
		ask := r.ask(a.ID, r.order(t, a, "dns:a.demo.test").Authorizations[0].ID)
		ask.Lease, ask.At = 0, ask.At.Add(after)
		_, _, err := r.Attempt(t.Context(), ask)
		must(t, err)
	}
	for range 6 {
		queued(r.account(t), 0)
	}
	other := r.accountOf(t, pkitest.Scope("demo/shop"))
	queued(other, time.Second)
	tasks, err := r.TakeOver(t.Context(), r.Now().Add(time.Minute), time.Minute, 2)
	must(t, err)
	if len(tasks) != 2 || (tasks[0].Scope == other.Scope) == (tasks[1].Scope == other.Scope) {
		t.Errorf("took over %+v: many accounts of one scope came before another's", tasks)
	}
}

func TestWaitingInLineIsNoTryAndLosesTheLease(t *testing.T) {
	r := newRig(t)
	a := r.account(t)
	ask := r.ask(a.ID, r.order(t, a, "dns:a.demo.test").Authorizations[0].ID)
	ask.Lease = 0
	_, _, err := r.Attempt(t.Context(), ask)
	must(t, err)
	over := func(lease time.Duration) acme.Task {
		t.Helper()
		tasks, err := r.TakeOver(t.Context(), r.Now(), lease, 10)
		must(t, err)
		if len(tasks) != 1 || tasks[0].Tries != 2 {
			t.Fatalf("took over %+v", tasks)
		}
		return tasks[0]
	}
	begun := func(what string, task acme.Task, want bool) {
		t.Helper()
		if ours, err := r.Begin(t.Context(), task, time.Minute); err != nil || ours != want {
			t.Errorf("%s: %v, %v", what, ours, err)
		}
	}
	stale := over(0) // its replica has a long line
	task := over(0)
	begun("by who lost it", stale, false)
	begun("by who has it", task, true)
	begun("again", task, false)
	own := acme.Task{Authorization: task.Authorization, Tries: 1}
	begun("by who recorded it and was slower", own, false)
	if tasks, err := r.TakeOver(t.Context(), r.Now(), time.Minute, 10); err != nil || len(tasks) != 0 {
		t.Errorf("taken over from who began: %+v, %v", tasks, err)
	}
}

func TestAnAccountCannotFillTheQueue(t *testing.T) {
	r := newRig(t)
	a, b := r.account(t), r.account(t)
	var last uid.UID
	for i := range 3 {
		last = r.order(t, a, "dns:a.demo.test").Authorizations[0].ID
		ask := r.ask(a.ID, last)
		ask.Most = 2
		_, ours, err := r.Attempt(t.Context(), ask)
		if ours != (i < 2) || errors.Is(err, acme.ErrQueueFull) != (i == 2) {
			t.Errorf("attempt %d: ours %v, %v", i+1, ours, err)
		}
	}
	if got, err := r.Authorization(t.Context(), last); err != nil || got.Attempt != nil {
		t.Errorf("recorded %+v, %v", got.Attempt, err)
	}
	ask := r.ask(b.ID, r.order(t, b, "dns:a.demo.test").Authorizations[0].ID)
	ask.Most = 2
	if _, ours, err := r.Attempt(t.Context(), ask); err != nil || !ours {
		t.Errorf("another account is kept out: %v", err)
	}
}

func TestWhatAnAnswerCarriedIsKeptForTheNextTry(t *testing.T) {
	r := newRig(t)
	a := r.account(t)
	ask := r.ask(a.ID, r.order(t, a, "dns:a.demo.test").Authorizations[0].ID)
	ask.Payload, ask.Lease = []byte(`{"attObj":"AA"}`), 0
	_, _, err := r.Attempt(t.Context(), ask)
	must(t, err)
	tasks, err := r.TakeOver(t.Context(), r.Now(), time.Minute, 10)
	must(t, err)
	if len(tasks) != 1 || string(tasks[0].Payload) != `{"attObj":"AA"}` {
		t.Errorf("took over %+v", tasks)
	}
}

func TestSweepForgetsAttemptsNobodyEnds(t *testing.T) {
	r := newRig(t)
	a := r.account(t)
	_, _, err := r.Attempt(t.Context(), r.ask(a.ID, r.order(t, a, "dns:a.demo.test").Authorizations[0].ID))
	must(t, err)
	count := func() (n int) {
		must(t, r.DB.QueryRow(t.Context(), `SELECT count(*) FROM acme_attempt`).Scan(&n))
		return n
	}
	must(t, r.Sweep(t.Context()))
	if n := count(); n != 1 {
		t.Errorf("%d attempts after a sweep", n)
	}
	r.Advance(25 * time.Hour)
	must(t, r.Sweep(t.Context()))
	if n := count(); n != 0 {
		t.Errorf("%d attempts a day later", n)
	}
}
