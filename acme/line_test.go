package acme_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"

	"codeberg.org/dataverket/segl/acme"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/uid"
)

func scope(t testing.TB, s string) identity.Scope {
	t.Helper()
	v, err := identity.ParseScope(s)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestScopesTakeTurnsAtTheWorkers(t *testing.T) {
	l := acme.NewLine(16)
	one, two := uid.New(uid.Account, 1, now), uid.New(uid.Account, 1, now)
	for range 4 {
		l.Put(scope(t, "a"), one, "a")
	}
	for range 4 {
		l.Put(scope(t, "b"), two, "b")
	}
	var order string
	for range 8 {
		order += l.Next()
	}
	if order != "abababab" {
		t.Errorf("ran %s: whoever came first ran first", order)
	}
}

func TestNeitherAccountNorScopeHasAllWorkers(t *testing.T) {
	l := acme.NewLine(8)
	a1, a2, b := uid.New(uid.Account, 1, now), uid.New(uid.Account, 1, now), uid.New(uid.Account, 1, now)
	for range 20 {
		l.Put(scope(t, "a"), a1, "1")
		l.Put(scope(t, "a"), a2, "2")
	}
	var ran string
	for s := l.Next(); s != ""; s = l.Next() {
		ran += s
	}
	if n := strings.Count(ran, "1"); n > 4 {
		t.Errorf("an account runs %d of 8", n)
	}
	if len(ran) != 6 {
		t.Errorf("a scope runs %d of 8", len(ran))
	}
	l.Put(scope(t, "b"), b, "b")
	if got := l.Next(); got != "b" {
		t.Errorf("%q runs, want who comes late and has nothing running", got)
	}
	l.Done("1")
	if got := l.Next(); got == "" {
		t.Error("a worker is free and nobody runs")
	}
}

func TestALineIsBounded(t *testing.T) {
	l := acme.NewLine(1)
	a := uid.New(uid.Account, 1, now)
	n := 0
	for l.Put(scope(t, "a"), a, "a") && n < 10000 {
		n++
	}
	if n != 128 {
		t.Errorf("an account has %d jobs waiting", n)
	}
	for _, c := range []struct {
		scope string
		want  int
	}{{"a", 256}, {"b", 512}, {"c", 768}, {"d", 1024}, {"e", 1024}} {
		for n < 10000 && l.Put(scope(t, c.scope), uid.New(uid.Account, 1, now), "x") {
			n++
		}
		if n != c.want {
			t.Errorf("%d jobs wait once scope %s is full, want %d", n, c.scope, c.want)
		}
	}
}

func TestAnAuthorizationWaitsInALineOnce(t *testing.T) {
	l := acme.NewLine(1)
	a := uid.New(uid.Account, 1, now)
	id := uid.New(uid.Authorization, 1, now)
	if !l.PutOf(scope(t, "a"), a, id, "first") || l.PutOf(scope(t, "a"), a, id, "first") {
		t.Error("an authorization waits twice")
	}
	if got := l.Next(); got != "first" || l.Next() != "" {
		t.Errorf("%q runs, and another job for the same", got)
	}
	if !l.PutOf(scope(t, "a"), a, id, "first") {
		t.Error("what is no longer waiting cannot wait again")
	}
}

func TestAClosedLineLetsWorkersGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := acme.NewLine(2)
		got := make(chan bool, 2)
		for range 2 {
			go func() { got <- l.Take(context.Background()) }()
		}
		synctest.Wait()
		l.Put(scope(t, "a"), uid.New(uid.Account, 1, now), "a")
		synctest.Wait()
		l.Close()
		if a, b := <-got, <-got; a == b {
			t.Errorf("workers got %v and %v, want one job", a, b)
		}
		if l.Put(scope(t, "a"), uid.New(uid.Account, 1, now), "a") {
			t.Error("a closed line takes jobs")
		}
	})
}

func TestAWorkerThatEndsMakesRoomForTwo(t *testing.T) {
	// One account's slot and one scope's slot are freed at once, and two who waited for one each may run.
	l := acme.NewLine(8) // 4 an account, 6 a scope
	a, b := uid.New(uid.Account, 1, now), uid.New(uid.Account, 1, now)
	for range 4 {
		l.Put(scope(t, "s"), a, "a")
		l.Next()
	}
	for range 2 {
		l.Put(scope(t, "s"), b, "b")
		l.Next()
	}
	l.Put(scope(t, "s"), b, "b") // waits for the scope
	l.Put(scope(t, "r"), a, "a") // waits for the account
	if got := l.Next(); got != "" {
		t.Fatalf("%s runs", got)
	}
	l.Done("a")
	if one, two := l.Next(), l.Next(); one+two != "ba" && one+two != "ab" {
		t.Errorf("%q and %q run", one, two)
	}
}
