package store_test

import (
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"codeberg.org/dataverket/segl/acme"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/uid"
)

// How many orders the test of volume makes: a thousand and some, or SEGL_ORDERS of them (make soak: a million).
func volume(t *testing.T) int {
	t.Helper()
	const few = 1400
	text := os.Getenv("SEGL_ORDERS")
	if text == "" {
		return few
	}
	n, err := strconv.Atoi(text)
	must(t, err)
	return max(n, few)
}

// Of a volume.
const (
	volumeWeeks    = 20
	volumeKeep     = 5 // weeks
	volumeAccounts = 40
	volumeAtOnce   = 128
)

// A load is what many accounts do with a store.
type load struct {
	*rig
	accounts []acme.Account
	made     int
}

// one takes an order as far as its number says: proved and failed at last, proved, refused, or left waiting. What a certificate
// costs the ledger is the ledger's test.
func (l *load) one(t *testing.T, n int) error {
	a := l.accounts[n%len(l.accounts)]
	now := l.Now().UTC().Truncate(time.Microsecond)
	name, err := cert.ParseDNS("host" + strconv.Itoa(n) + ".demo.test")
	if err != nil {
		return err
	}
	nonce, err := l.Nonce(t.Context())
	if err != nil {
		return err
	}
	if _, err := l.Admit(t.Context(), nonce, a.ID, uid.UID{}); err != nil {
		return err
	}
	o := acme.Order{ID: uid.New(uid.Order, 1, now), Account: a.ID, Scope: a.Scope, Profile: "server", Expires: now.Add(time.Hour), Names: []cert.Name{name}}
	o.Authorizations = []acme.Authorization{{ID: uid.New(uid.Authorization, 1, now), Account: a.ID, Name: name, Token: acme.Token{1}, Expires: now.Add(time.Hour)}}
	if err := l.CreateOrder(t.Context(), o); err != nil {
		return err
	}
	id, v := o.Authorizations[0].ID, acme.Validation{Method: acme.HTTP01, At: now, Evidence: "127.0.0.1:80"}
	switch n % 50 {
	case 0:
		_, _, err := l.Attempt(t.Context(), acme.Ask{Account: a.ID, Authorization: id, Method: acme.HTTP01, At: now, Lease: time.Second})
		return err
	case 1:
		v.Evidence, v.Problem = "", acme.NewProblem(acme.Connection, "refused")
		_, err := l.Settle(t.Context(), id, false, v)
		return err
	case 2:
		if err := l.Fail(t.Context(), o.ID, now, acme.NewProblem(acme.BadCSR, "no")); err != nil {
			return err
		}
	}
	_, err = l.Settle(t.Context(), id, false, v)
	return err
}

// some makes n orders, many at once.
func (l *load) some(t *testing.T, n int) {
	t.Helper()
	numbers := make(chan int)
	var all sync.WaitGroup
	for range volumeAtOnce {
		all.Go(func() {
			for n := range numbers {
				if err := l.one(t, n); err != nil {
					t.Errorf("order %d: %v", n, err)
				}
			}
		})
	}
	for range n {
		numbers <- l.made
		l.made++
	}
	close(numbers)
	all.Wait()
}

// vacuum does what autovacuum would have done by now; the database of tests has none.
func (l *load) vacuum(t *testing.T) {
	t.Helper()
	for _, table := range []string{"acme_attempt", "acme_nonce"} {
		_, err := l.DB.Exec(t.Context(), `VACUUM `+table)
		must(t, err)
	}
}

// all returns how many octets everything takes that ACME writes for orders, tables that are not of a week included.
func (l *load) all(t *testing.T) (octets int64) {
	t.Helper()
	must(t, l.DB.QueryRow(t.Context(), `
		SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0)
		FROM   pg_class c
		WHERE  c.relkind = 'r' AND c.relname ~ '^acme_(order|authorization|validation|finalization|failure|attempt|nonce)'`).Scan(&octets))
	return octets
}

// TestManyOrdersLeaveNoGrowthBehind makes orders for as many weeks as several retentions last. What they take is bounded by the
// weeks that are kept, and nothing is left when the last week has gone.
func TestManyOrdersLeaveNoGrowthBehind(t *testing.T) {
	const week, maxOctets = 7 * 24 * time.Hour, 1 << 10 // of an order, its authorization and what became of it
	l := &load{rig: newRig(t)}
	for range volumeAccounts {
		l.accounts = append(l.accounts, l.account(t))
	}
	total := volume(t)
	var octets []int64
	began := time.Now()
	for range volumeWeeks {
		_, err := l.Ledger.MakeEpochs(t.Context(), l.Now())
		must(t, err)
		for range 7 {
			l.some(t, total/volumeWeeks/7)
			l.Advance(week / 7)
			must(t, l.Sweep(t.Context()))
			l.vacuum(t)
		}
		must(t, l.Drop(t.Context(), uid.EpochOf(l.Now())-volumeKeep-1))
		octets = append(octets, l.all(t))
	}
	t.Logf("%d orders in %s; octets by week %v", l.made, time.Since(began).Round(time.Second), octets)
	const full = volumeKeep + 1 // from then on a week leaves for each that comes
	for i := full + 1; i < len(octets); i++ {
		if octets[i] > octets[full]+octets[full]/10 {
			t.Errorf("octets by week %v: it grows", octets)
			break
		}
	}
	empty := l.leave(t)
	if perOrder := (octets[full] - empty) / int64(l.made*full/volumeWeeks); total > 100_000 && perOrder > maxOctets { // fewer do not fill the pages of their weeks
		t.Errorf("%d octets an order, want at most %d", perOrder, maxOctets)
	}
	if total > 100_000 && empty > octets[full]/10 || empty > octets[0] {
		t.Errorf("%d octets are left when all orders have gone; they took %d", empty, octets[full])
	}
}

// leave lets all weeks go, and returns the octets that are left.
func (l *load) leave(t *testing.T) int64 {
	t.Helper()
	l.Advance(2 * 24 * time.Hour)
	must(t, l.Sweep(t.Context()))
	must(t, l.Drop(t.Context(), uid.EpochOf(l.Now())))
	l.vacuum(t)
	var rows int
	must(t, l.DB.QueryRow(t.Context(), `
		SELECT (SELECT count(*) FROM acme_order) + (SELECT count(*) FROM acme_authorization) + (SELECT count(*) FROM acme_validation)
		       + (SELECT count(*) FROM acme_failure) + (SELECT count(*) FROM acme_attempt) + (SELECT count(*) FROM acme_nonce)`).Scan(&rows))
	if rows != 0 {
		t.Errorf("%d rows of orders are left", rows)
	}
	if _, err := l.Account(t.Context(), l.accounts[0].ID); err != nil {
		t.Errorf("an account left with its orders: %v", err)
	}
	return l.all(t)
}
