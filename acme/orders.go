package acme

import (
	"context"
	"fmt"

	"codeberg.org/dataverket/segl/internal/uid"
)

// ordersPage is how many orders a page of the list looks at.
const ordersPage = 100

// Orders returns a page of h's orders (RFC 8555 §7.1.2.1), the newest first, from below the one it is given, or from the
// newest for the zero one; and where the next page begins, zero after the last. "The server … SHOULD NOT include orders that
// are invalid", so that a page may be short and yet not the last.
func (s *Server) Orders(ctx context.Context, h Holder, below uid.UID) (page []uid.UID, next uid.UID, err error) {
	if !below.IsZero() && below.Kind() != uid.Order {
		return nil, uid.UID{}, notFound("page of orders")
	}
	list, err := s.Store.Orders(ctx, h.ID, below, ordersPage)
	if err != nil {
		return nil, uid.UID{}, fmt.Errorf("listing the orders of account %s: %w", h.ID, err)
	}
	if len(list) == ordersPage {
		next = list[len(list)-1].ID
	}
	for _, o := range list {
		if o.Status(s.Now()) != Invalid {
			page = append(page, o.ID)
		}
	}
	return page, next, nil
}
