package acme

import (
	"sync"

	"codeberg.org/dataverket/segl/internal/uid"
)

// memory keeps facts about the orders that were just made here, since their clients come back at once. Facts never change,
// so what it says is so; what it does not say may be so by now, and only the Store knows: a remembered authorization
// without a validation is not believed to be pending, nor a remembered order not to be finalized.
type memory struct {
	mu     sync.Mutex
	line   []uid.UID         // of orders, the oldest first
	orders map[uid.UID]Order // as they were made
	claims map[uid.UID]Authorization
}

// How much is remembered: what clients are at just now.
const (
	rememberedOrders = 512
	rememberedClaims = 8192 // of all orders
)

func newMemory() *memory {
	return &memory{orders: make(map[uid.UID]Order), claims: make(map[uid.UID]Authorization)}
}

// made remembers an order that is recorded, and forgets the oldest ones for it.
func (m *memory) made(o Order) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.line = append(m.line, o.ID)
	m.orders[o.ID] = o
	for _, a := range o.Authorizations {
		m.claims[a.ID] = a
	}
	for len(m.line) > rememberedOrders || len(m.claims) > rememberedClaims {
		oldest := m.line[0]
		m.line = m.line[1:]
		for _, a := range m.orders[oldest].Authorizations { // another order that rests on one of them is read then
			delete(m.claims, a.ID)
		}
		delete(m.orders, oldest)
	}
}

// settled remembers how an authorization ended, once that is recorded.
func (m *memory) settled(id uid.UID, v Validation) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if a, ok := m.claims[id]; ok {
		a.Attempt, a.Validation = nil, &v
		m.claims[id] = a
	}
}

// attempted remembers that an authorization will be tried again, once that is recorded.
func (m *memory) attempted(id uid.UID, t Attempt) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if a, ok := m.claims[id]; ok {
		a.Attempt = &t
		m.claims[id] = a
	}
}

// forget drops an authorization that was given up, and with it every order that rests on it.
func (m *memory) forget(id uid.UID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.claims, id)
}

// claim returns an authorization of account, with its validation if that is known.
func (m *memory) claim(id, account uid.UID) (Authorization, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	a, ok := m.claims[id]
	return a, ok && a.Account == account
}

// proved returns an order of account all of whose authorizations are known to have ended.
func (m *memory) proved(id, account uid.UID) (Order, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	o, ok := m.orders[id]
	if !ok || o.Account != account {
		return Order{}, false
	}
	list := make([]Authorization, len(o.Authorizations))
	for i, a := range o.Authorizations {
		list[i] = m.claims[a.ID]
		if list[i].Validation == nil {
			return Order{}, false
		}
	}
	o.Authorizations = list
	return o, true
}
