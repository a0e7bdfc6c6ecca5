package store_test

import (
	"errors"
	"testing"
	"time"

	"codeberg.org/dataverket/segl/acme"
	"codeberg.org/dataverket/segl/internal/pkitest"
	"codeberg.org/dataverket/segl/internal/uid"
)

// week makes the epochs of now, as the ledger's duty does, and a week's orders: some issued for, some failed, some abandoned.
func (r *rig) week(t *testing.T, a acme.Account) acme.Order {
	t.Helper()
	_, err := r.Ledger.MakeEpochs(t.Context(), r.Now())
	must(t, err)
	var o acme.Order
	for n := range 12 {
		o = r.order(t, a, "dns:a.demo.test", "dns:b.demo.test")
		v := acme.Validation{Method: acme.HTTP01, At: r.Now(), Evidence: "127.0.0.1:80"}
		for _, z := range o.Authorizations {
			if n%3 == 0 {
				_, _, err := r.Attempt(t.Context(), acme.Ask{Account: a.ID, Authorization: z.ID, Method: acme.HTTP01, At: r.Now(), Lease: time.Second})
				must(t, err)
				continue
			}
			_, err := r.Settle(t.Context(), z.ID, false, v)
			must(t, err)
		}
		if n%3 == 1 {
			csr := pkitest.CSR(t, pkitest.Key(t), "dns:a.demo.test", "dns:b.demo.test")
			_, err := r.Finalize(t.Context(), o.ID, acme.Finalization{At: r.Now(), Key: csr.Key, SPKI: csr.SPKI, KeyID: csr.KeyID})
			must(t, err)
			must(t, r.Fail(t.Context(), o.ID, r.Now(), acme.NewProblem(acme.BadCSR, "no")))
		}
	}
	return o
}

// grown returns how many octets and tables ACME's orders take.
func (r *rig) grown(t *testing.T) (octets, tables int64) {
	t.Helper()
	must(t, r.DB.QueryRow(t.Context(), `
		SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0), count(*)
		FROM   pg_class c
		WHERE  c.relkind = 'r' AND c.relname ~ '^acme_(order|authorization|validation|finalization|failure)'`).Scan(&octets, &tables))
	return octets, tables
}

func TestOrdersLeaveAsWholeWeeksAndNoGrowthBehind(t *testing.T) {
	r := newRig(t)
	a := r.account(t)
	const keep = 3 // weeks
	var octets, tables []int64
	var last acme.Order
	for range 9 {
		last = r.week(t, a)
		must(t, r.Sweep(t.Context()))
		must(t, r.Drop(t.Context(), uid.EpochOf(r.Now())-keep))
		o, n := r.grown(t)
		octets, tables = append(octets, o), append(tables, n)
		r.Advance(7 * 24 * time.Hour)
	}
	for i := keep + 1; i < len(octets); i++ { // from then on a week leaves for each that comes
		if octets[i] > octets[keep+1] || tables[i] > tables[keep+1] {
			t.Errorf("octets by week %v, tables %v: it grows", octets, tables)
			break
		}
	}
	var waiting int // the queue is one table: its rows are deleted, and their room used again
	must(t, r.DB.QueryRow(t.Context(), `SELECT count(*) FROM acme_attempt`).Scan(&waiting))
	if waiting > 3*8 {
		t.Errorf("%d attempts wait for orders long gone", waiting)
	}
	if got, err := r.Order(t.Context(), last.ID); err != nil || got.ID != last.ID {
		t.Errorf("the last order: %v", err)
	}
	must(t, r.Drop(t.Context(), last.ID.Epoch()))
	if _, err := r.Order(t.Context(), last.ID); !errors.Is(err, acme.ErrNotFound) {
		t.Errorf("an order whose week was dropped: %v", err)
	}
	if list, err := r.Orders(t.Context(), a.ID, uid.UID{}, 10); err != nil || len(list) != 0 {
		t.Errorf("orders of dropped weeks are listed: %v, %v", list, err)
	}
	must(t, r.Drop(t.Context(), last.ID.Epoch())) // again: nothing is there
	if _, err := r.Account(t.Context(), a.ID); err != nil {
		t.Errorf("the account left with its orders: %v", err)
	}
}

func TestDroppingDoesNotWaitForReaders(t *testing.T) {
	r := newRig(t)
	o := r.order(t, r.account(t), "dns:a.demo.test")
	tx, err := r.DB.Begin(t.Context())
	must(t, err)
	var n int
	must(t, tx.QueryRow(t.Context(), `SELECT count(*) FROM acme_order`).Scan(&n))
	if err := r.Drop(t.Context(), o.ID.Epoch()); err == nil {
		t.Error("dropped what somebody reads")
	}
	must(t, tx.Rollback(t.Context()))
	if _, err := r.Order(t.Context(), o.ID); err != nil {
		t.Errorf("the order after a drop that failed: %v", err)
	}
	must(t, r.Drop(t.Context(), o.ID.Epoch()))
}
