package ledger_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/internal/pkitest"
	"codeberg.org/dataverket/segl/internal/postgres"
	"codeberg.org/dataverket/segl/internal/postgres/postgrestest"
	"codeberg.org/dataverket/segl/internal/uid"
)

// A commit in doubt is made by asking for a standby that does not exist: the commit record is written, the server waits for
// the standby, and there its session is ended.
func TestACommitInDoubtIsSaidToBe(t *testing.T) {
	c := postgrestest.Cluster(t, nil)
	h := pkitest.On(t, postgrestest.Connect(t, c.URL()))
	l := h.Ledger
	super, err := pgx.Connect(t.Context(), c.SuperuserURL())
	must(t, err)
	defer super.Close(context.WithoutCancel(t.Context())) //nolint:errcheck // it only administers
	before, doubtful := intent(time.Now()), intent(time.Now())
	doubtful.Authority = h.Authorities()[1].ID
	doubtful.Origin.ID = uid.Derive(uid.Request, 1, time.Unix(0, 0), [32]byte{7})
	must(t, l.Intend(t.Context(), before))

	said := cutOff(t, super, func() error { return l.Intend(t.Context(), doubtful) })
	if said == nil || !postgres.InDoubt(said) || !strings.Contains(said.Error(), "unknown") {
		t.Errorf("a commit cut off says %v, want that its outcome is unknown", said)
	}
	for _, sentinel := range []error{ca.ErrOriginTaken, ca.ErrSettled, ca.ErrCallerRevoked, ca.ErrNotFound} {
		if errors.Is(said, sentinel) {
			t.Errorf("a commit cut off says %v", sentinel)
		}
	}
	if rec, err := l.ByOrigin(t.Context(), doubtful.Origin.ID); err != nil || rec.Serial != doubtful.Serial || rec.Signature != nil {
		t.Errorf("the intent that landed: %+v, %v", rec.Serial, err)
	}

	said = cutOff(t, super, func() error { return l.Complete(t.Context(), completion(doubtful.Serial)) })
	if said == nil || !postgres.InDoubt(said) {
		t.Errorf("a completion cut off says %v, want that its outcome is unknown", said)
	}
	must(t, l.Stands(t.Context(), doubtful.Serial))
	if err := l.Complete(t.Context(), completion(doubtful.Serial)); !errors.Is(err, ca.ErrSettled) {
		t.Errorf("completed again: %v, want ErrSettled", err)
	}
	if n := number(t, h.DB, `SELECT count(*) FROM fact WHERE serial = $1`, doubtful.Serial.Bytes()); n != 1 {
		t.Errorf("%d facts of it, want one", n)
	}

	said = cutOff(t, super, func() error { return l.Revoke(t.Context(), revocation(doubtful.Serial)) })
	if said == nil || !postgres.InDoubt(said) {
		t.Errorf("a revocation cut off says %v, want that its outcome is unknown", said)
	}
	if err := l.Revoke(t.Context(), revocation(doubtful.Serial)); !errors.Is(err, ca.ErrAlreadyRevoked) {
		t.Errorf("revoked again: %v, want ErrAlreadyRevoked", err)
	}
	must(t, l.Complete(t.Context(), completion(before.Serial)))
}

// cutOff runs write and ends its session while its commit waits for the standby.
func cutOff(t *testing.T, super *pgx.Conn, write func() error) error {
	t.Helper()
	standby := func(name string) {
		t.Helper()
		for _, sql := range []string{`ALTER SYSTEM SET synchronous_standby_names = '` + name + `'`, `SELECT pg_reload_conf()`} {
			_, err := super.Exec(t.Context(), sql)
			must(t, err)
		}
	}
	count := func(sql string) (n int) {
		t.Helper()
		must(t, super.QueryRow(t.Context(), sql).Scan(&n))
		return n
	}
	_, err := super.Exec(t.Context(), `SET synchronous_commit = local`)
	must(t, err)
	standby("nobody")
	for count(`SELECT count(*) FROM pg_settings WHERE name = 'synchronous_standby_names' AND setting = 'nobody'`) == 0 {
		must(t, t.Context().Err())
	}
	done := make(chan error, 1)
	go func() { done <- write() }()
	for count(`SELECT count(*) FROM (SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep') ended`) == 0 {
		select {
		case err := <-done:
			t.Fatalf("the write did not wait for the standby: %v", err)
		default:
		}
	}
	said := <-done
	standby("")
	return said
}
