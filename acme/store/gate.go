package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"codeberg.org/dataverket/segl/acme"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/uid"
)

// Bounds of admission.
const (
	gateSize    = 64   // requests in a round trip
	gateQueue   = 1024 // waiting
	gateTimeout = 10 * time.Second
)

// An entry is one request that asks to be let in. standing and err are set when done is closed.
type entry struct {
	spend    spend
	account  uid.UID
	standing acme.Standing
	err      error
	done     chan struct{}
}

// A gate admits requests in groups: while one round trip is under way the next gathers, so an idle server answers at once
// and a busy one spends many nonces a trip. The transactions write nothing but unlogged rows: they wait for no disk.
type gate struct {
	nonces *nonces
	queue  chan *entry
	wait   sync.WaitGroup
}

func newGate(n *nonces) *gate {
	g := &gate{nonces: n, queue: make(chan *entry, gateQueue)}
	g.wait.Go(g.work)
	return g
}

func (g *gate) close() {
	close(g.queue)
	g.wait.Wait()
}

// Admit implements acme.Store.
func (s *Store) Admit(ctx context.Context, nonce string, account uid.UID) (acme.Standing, error) {
	sp, ok := s.nonces.open(ctx, nonce)
	if !ok {
		return acme.Standing{}, nil
	}
	e := &entry{spend: sp, account: account, done: make(chan struct{})}
	select {
	case s.gate.queue <- e:
	case <-ctx.Done():
		return acme.Standing{}, fmt.Errorf("waiting to be admitted: %w", ctx.Err())
	}
	select {
	case <-e.done:
		return e.standing, e.err
	case <-ctx.Done():
		return acme.Standing{}, fmt.Errorf("waiting to be admitted: %w", ctx.Err())
	}
}

func (g *gate) work() {
	for first := range g.queue {
		group := []*entry{first}
	gather:
		for len(group) < gateSize {
			select {
			case next, ok := <-g.queue:
				if !ok {
					break gather
				}
				group = append(group, next)
			default:
				break gather
			}
		}
		err := g.admit(group)
		for _, e := range group {
			if err != nil {
				e.err, e.standing = err, acme.Standing{}
			}
			close(e.done)
		}
	}
}

// spendNonce sets one bit, if it is not set and the key is still the database's.
const spendNonce = `
	INSERT INTO acme_nonce AS n (block, made_at, spent)
	SELECT $1::bigint, $2::timestamptz, set_bit($5::bytea, $3::integer, 1)
	FROM   acme_boot
	WHERE  id = $4
	ON     CONFLICT ON CONSTRAINT acme_nonce_pk DO UPDATE
	SET    spent = set_bit(n.spent, $3::integer, 1)
	WHERE  get_bit(n.spent, $3::integer) = 0`

const accountStandings = `
	SELECT a.id, a.key_id, a.deactivated_at IS NOT NULL
	FROM   unnest($1::bytea[]) AS n (id)
	CROSS  JOIN LATERAL (
	           SELECT d.id, d.key_id, d.deactivated_at
	           FROM   acme_account d
	           WHERE  d.id = n.id
	           LIMIT  1
	       ) a`

// admit runs a group in one transaction. Blocks are taken in order, so that two replicas never wait for each other.
func (g *gate) admit(group []*entry) error {
	slices.SortStableFunc(group, func(a, b *entry) int { return cmp.Compare(a.spend.block, b.spend.block) })
	var b pgx.Batch
	var accounts [][]byte
	unspent := make([]byte, blockSize/8)
	for _, e := range group {
		b.Queue(spendNonce, int64(e.spend.block), e.spend.made, e.spend.offset, e.spend.boot, unspent) //nolint:gosec // the same bits
		if !e.account.IsZero() {
			accounts = append(accounts, e.account.Bytes())
		}
	}
	if len(accounts) > 0 {
		b.Queue(accountStandings, accounts)
	}
	ctx, cancel := context.WithTimeout(context.Background(), gateTimeout) // the group belongs to no single request
	defer cancel()
	results := g.nonces.db.SendBatch(ctx, &b)
	err := readSpends(results, group)
	if err == nil && len(accounts) > 0 {
		err = readStandings(results, group)
	}
	if err = errors.Join(err, results.Close()); err != nil {
		return err
	}
	for _, e := range group {
		if !e.standing.Fresh { // used before, or the database has lived another life since
			g.nonces.reload(ctx, g.nonces.current())
			break
		}
	}
	return nil
}

func readSpends(results pgx.BatchResults, group []*entry) error {
	for _, e := range group {
		tag, err := results.Exec()
		if err != nil {
			return err
		}
		e.standing.Fresh = tag.RowsAffected() == 1
	}
	return nil
}

func readStandings(results pgx.BatchResults, group []*entry) error {
	rows, err := results.Query()
	if err != nil {
		return err
	}
	var id, key []byte
	var ended bool
	_, err = pgx.ForEachRow(rows, []any{&id, &key, &ended}, func() error {
		for _, e := range group {
			if !e.account.IsZero() && string(e.account.Bytes()) == string(id) {
				e.standing.Known, e.standing.KeyID, e.standing.Deactivated = true, cert.KeyID(key), ended
			}
		}
		return nil
	})
	return err
}
