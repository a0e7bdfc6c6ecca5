package ledger_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/pkitest"
	"codeberg.org/dataverket/segl/internal/uid"
)

// walk pages through a query and returns the serials in the order they came.
func walk(t *testing.T, l interface {
	Select(ctx context.Context, q ca.Query) (ca.Page, error)
}, q ca.Query,
) (all []cert.Serial) {
	t.Helper()
	for {
		page, err := l.Select(t.Context(), q)
		must(t, err)
		for i, r := range page.Records {
			if i > 0 && !q.Revoked && r.NotAfter.Before(page.Records[i-1].NotAfter) || r.Signature == nil || r.Scope.IsZero() {
				t.Errorf("%s ends %s, signature %x, in %q", r.Serial, r.NotAfter, r.Signature, r.Scope)
			}
			all = append(all, r.Serial)
		}
		if !page.More {
			return all
		}
		q.After = page.Next
	}
}

func TestSelectWalksEverythingOnce(t *testing.T) {
	l, _ := opened(t)
	now := time.Now().Truncate(time.Second)
	want := map[string][]cert.Serial{}
	for i := range 30 {
		in := intent(now.Add(-time.Duration(i%3) * uid.EpochLength / 3)) // several partitions
		in.NotAfter = now.Add(time.Duration(i/4) * time.Hour)            // several to an instant
		in.Scope = pkitest.Scope([]string{"demo", "demo/shop", "demo/shop/dev", "other", "platform"}[i%5])
		issued(t, l, in)
		if i%6 == 0 {
			must(t, l.Revoke(t.Context(), revocation(in.Serial)))
			want["revoked"] = append(want["revoked"], in.Serial)
		}
		if !in.NotAfter.Before(now.Add(2*time.Hour)) && in.NotAfter.Before(now.Add(4*time.Hour)) {
			want["expiring"] = append(want["expiring"], in.Serial)
		}
		for s := in.Scope; ; s, _ = s.Parent() {
			want[s.String()] = append(want[s.String()], in.Serial)
			if _, ok := s.Parent(); !ok {
				break
			}
		}
		want["all"] = append(want["all"], in.Serial)
	}
	must(t, l.Intend(t.Context(), intent(now))) // open: no certificate
	abandoned := intent(now.Add(-time.Minute))
	must(t, l.Intend(t.Context(), abandoned))
	_, err := l.Abandon(t.Context(), now.Add(-30*time.Second), audit.Fact{At: now, Who: identity.System("test"), What: audit.Abandon})
	must(t, err)
	for name, q := range map[string]ca.Query{
		"all": {}, "demo": {Scope: pkitest.Scope("demo")}, "demo/shop": {Scope: pkitest.Scope("demo/shop")}, "demo/shop/dev": {Scope: pkitest.Demo},
		"other": {Scope: pkitest.Scope("other")}, "platform": {Scope: identity.Platform}, "nobody": {Scope: pkitest.Scope("nobody")}, "revoked": {Revoked: true},
		"expiring": {ExpiringAfter: now.Add(2 * time.Hour), ExpiringBefore: now.Add(4 * time.Hour)},
	} {
		for _, q.Limit = range []int{1, 4, 100} {
			got, want := walk(t, l, q), slices.Clone(want[name])
			less := func(a, b cert.Serial) int { return slices.Compare(a.Bytes(), b.Bytes()) }
			slices.SortFunc(got, less)
			slices.SortFunc(want, less)
			if !slices.Equal(got, want) {
				t.Errorf("%s, %d a page: %d certificates, want %d, each once", name, q.Limit, len(got), len(want))
			}
		}
	}
}

func TestAbandonMissesNothingWhateverTheClockDoes(t *testing.T) {
	l, db := opened(t)
	f := audit.Fact{At: time.Now(), Who: identity.System("test"), What: audit.Abandon}
	now := time.Now()
	abandons := func(name string, before time.Time, want ...cert.Serial) {
		t.Helper()
		got, err := l.Abandon(t.Context(), before, f)
		if err != nil || len(got) != len(want) || len(want) == 1 && got[0] != want[0] {
			t.Errorf("%s: abandoned %v, want %v: %v", name, got, want, err)
		}
	}
	open := func(at time.Time) cert.Serial {
		in := intent(at)
		must(t, l.Intend(t.Context(), in))
		return in.Serial
	}
	first := open(now.Add(-time.Hour))
	abandons("the first run reads everything", now.Add(-time.Minute), first)
	abandons("and nothing twice", now.Add(-time.Minute))
	behind := open(now.Add(-2 * time.Hour)) // a replica whose clock is behind, and that then dies
	abandons("below what was settled", now.Add(-time.Minute), behind)
	abandons("settled again", now.Add(-time.Minute))
	abandons("the clock goes back", now.Add(-3*time.Hour))
	early := open(now.Add(-4 * time.Hour))
	abandons("an intent of the earlier clock", now.Add(-3*time.Hour), early)
	late := open(now.Add(-90 * time.Minute))
	abandons("the clock goes forward", now.Add(-time.Minute), late)
	issued(t, l, intent(now.Add(-time.Minute)))
	abandons("a completed one is left alone", now)
	young := open(now)
	abandons("a young one is left alone", now.Add(-time.Second))
	abandons("until its time", now.Add(time.Second), young)

	// A revoked open intent, which only a stranger to this package can have made, must not stop the others.
	odd := open(now.Add(-time.Minute))
	must(t, l.Revoke(t.Context(), revocation(odd)))
	other := open(now.Add(-time.Minute))
	if got, err := l.Abandon(t.Context(), now, f); err != nil || len(got) != 2 {
		t.Errorf("abandoned %v, want %s and %s: %v", got, odd, other, err)
	}
	if n := number(t, db, `SELECT count(*) FROM settled`); n != 1 {
		t.Errorf("%d marks, want one", n)
	}
}

func TestASlowReplicasIntentLowersTheMarkUnderARunningAbandonment(t *testing.T) {
	l, db := opened(t)
	f := audit.Fact{At: time.Now(), Who: identity.System("test"), What: audit.Abandon}
	_, err := l.Abandon(t.Context(), time.Now(), f)
	must(t, err)
	tx, err := db.Begin(t.Context())
	must(t, err)
	defer tx.Rollback(context.WithoutCancel(t.Context())) //nolint:errcheck // committed below
	behind := intent(time.Now().Add(-time.Hour))
	_, err = tx.Exec(t.Context(), `
		WITH made AS (
			INSERT INTO intent (serial, not_after, authority, scope, profile, tbs)
			SELECT $1, now(), 1, id, 'server', 'tbs'
			FROM   scope
			WHERE  path = 'demo'
		)
		UPDATE settled
		SET    serial = $1`, behind.Serial.Bytes())
	must(t, err)
	done := make(chan error)
	go func() { // it looked before the intent was there, and waits for the mark
		_, err := l.Abandon(t.Context(), time.Now().Add(time.Second), f)
		done <- err
	}()
	for number(t, db, `SELECT count(*) FROM pg_locks WHERE NOT granted`) == 0 {
		must(t, t.Context().Err())
	}
	must(t, tx.Commit(t.Context()))
	must(t, <-done)
	if got, err := l.Abandon(t.Context(), time.Now().Add(time.Second), f); err != nil || len(got) != 1 || got[0] != behind.Serial {
		t.Errorf("abandoned %v, want %s: %v", got, behind.Serial, err)
	}
}
