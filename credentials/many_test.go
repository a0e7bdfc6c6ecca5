package credentials_test

import (
	"fmt"
	"testing"
	"time"

	"codeberg.org/dataverket/segl/credentials"
	"codeberg.org/dataverket/segl/internal/uid"
)

// Ten thousand leases whose time comes in the same second end in bounded runs, each statement of which is short: what else
// the database is asked meanwhile waits for none of them.
func TestTenThousandLeasesEndTogether(t *testing.T) {
	const many = 10_000
	h := newHouse(t)
	one := h.lease(t, h.workload(t, "api"))
	ids, names := make([][]byte, many), make([]string, many)
	for i := range ids {
		id := uid.New(uid.Lease, 1, h.Now())
		ids[i], names[i] = id.Bytes(), credentials.PrincipalOf(id)
		h.city.logins[names[i]] = true
	}
	_, err := h.DB.Exec(t.Context(), `
		INSERT INTO lease (id, binding, target, scope, identity, serial, principal, made_at, expires_at, ready_at)
		SELECT u.id, l.binding, l.target, l.scope, l.identity, l.serial, u.principal, l.made_at, l.expires_at, l.ready_at
		FROM   lease l
		CROSS  JOIN unnest($2::bytea[], $3::text[]) AS u (id, principal)
		WHERE  l.id = $1`, one.ID.Bytes(), ids, names)
	if err != nil {
		t.Fatal(err)
	}
	h.Advance(2 * time.Hour)
	begun, slowest, runs := time.Now(), time.Duration(0), 0
	for more := true; more; runs++ {
		round := time.Now()
		if more, err = h.Cascade(t.Context()); err != nil || runs > 100 {
			t.Fatalf("run %d: %v", runs, err)
		}
		slowest = max(slowest, time.Since(round))
	}
	t.Logf("%d leases ended in %s, %d runs, the longest %s", many, time.Since(begun).Round(time.Millisecond), runs, slowest.Round(time.Millisecond))
	if h.city.has() != 0 || h.city.ended != many+1 {
		t.Errorf("%d logins left, %d ended", h.city.has(), h.city.ended)
	}
	var owed, facts, receipts int
	err = h.DB.QueryRow(t.Context(), `
		SELECT (SELECT count(*) FROM lease WHERE gone_at IS NULL), (SELECT count(*) FROM fact WHERE what = 'lease.end'),
		       (SELECT count(*) FROM lease_receipt WHERE effect = 'login dropped')`).Scan(&owed, &facts, &receipts)
	if err != nil || owed != 0 || facts != many+1 || receipts != many+1 {
		t.Errorf("%d owed, %s, %v", owed, fmt.Sprint(facts, " facts, ", receipts, " receipts"), err)
	}
}
