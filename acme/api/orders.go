package api

import (
	"context"
	"net/http"

	"codeberg.org/dataverket/segl/acme"
	"codeberg.org/dataverket/segl/internal/uid"
)

// orders is RFC 8555 §7.1.2.1: "The server MAY return an incomplete list, along with a Link header field with a "next" link
// relation indicating where further entries can be acquired."
func (d *door) orders(ctx context.Context, r *request) (answer, error) {
	id, err := d.reading(ctx, r)
	if err != nil {
		return answer{}, err
	}
	if id != r.acct.ID {
		return answer{}, acme.NewProblem(acme.Unauthorized, "these are another account's orders: sign with that account")
	}
	var below uid.UID
	if r.URL.RawQuery != "" {
		if below, err = uid.Parse(r.URL.Query().Get(cursor)); err != nil {
			p := acme.NewProblem(acme.Malformed, "no such page of orders: follow the links from the first")
			p.Status = http.StatusNotFound
			return answer{}, p
		}
	}
	page, next, err := d.Server.Orders(ctx, r.holder(), below)
	if err != nil {
		return answer{}, err
	}
	list := struct {
		Orders []string `json:"orders"`
	}{make([]string, 0, len(page))}
	for _, o := range page {
		list.Orders = append(list.Orders, r.at.order(o))
	}
	out := answer{body: list}
	if !next.IsZero() {
		out.next = r.at.account(id) + "/orders?" + cursor + "=" + next.String()
	}
	return out, nil
}

// cursor is the query's member that says below which order a page begins.
const cursor = "below"
