package ledger

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"codeberg.org/dataverket/segl/internal/uid"
)

// A leaf is the partition that holds the identifiers of one kind, site and epoch, in every table partitioned on them.
//
// Statements name it. To Postgres a statement on the parent is one on every partition: a prepared plan locks and prepares
// all of them each time it runs, so that it costs more with every week the ledger has lived. By name it costs the same for
// ever.
type leaf struct {
	kind  uid.Kind
	site  byte
	epoch uid.Epoch
}

// leafOf returns where id is kept, whether or not that is there.
func leafOf(id uid.UID) leaf { return leaf{id.Kind(), id.Site(), id.Epoch()} }

// of returns the name of v in the partitioned table parent, a word of ours.
func (v leaf) of(parent string) string {
	if v.kind == uid.Request && parent == "origin" {
		return "origin_request" // has no epochs: its rows go one by one, after a day
	}
	return uid.Partition(parent, v.kind, v.site, v.epoch)
}

// before reports whether the identifiers of v sort before those of w.
func (v leaf) before(w leaf) bool { return compareLeaves(v, w) < 0 }

func compareLeaves(v, w leaf) int {
	return cmp.Or(cmp.Compare(v.kind, w.kind), cmp.Compare(v.site, w.site), cmp.Compare(v.epoch, w.epoch))
}

// parseLeaf reads back what of wrote.
func parseLeaf(parent, table string) (v leaf, err error) {
	rest, _ := strings.CutPrefix(table, parent+"_")
	first, rest, _ := strings.Cut(rest, "_s")
	second, third, _ := strings.Cut(rest, "_e")
	kind, err1 := strconv.ParseUint(first, 16, 8)
	site, err2 := strconv.ParseUint(second, 10, 8)
	epoch, err3 := strconv.ParseUint(third, 10, 31)
	v = leaf{uid.Kind(kind), byte(site), uid.Epoch(epoch)} //nolint:gosec // bounded, and compared below
	if err1 != nil || err2 != nil || err3 != nil || v.of(parent) != table {
		return leaf{}, fmt.Errorf("partition %s of %s: not a name of ours: detach it", table, parent)
	}
	return v, nil
}

// has reports whether parent has v. That it has is remembered; that it has not is asked each time, by one look at the
// catalogue: so a stranger's made-up serial costs little, stays out of the database's log, and leaves nothing behind.
func (l *Ledger) has(ctx context.Context, parent string, v leaf) (bool, error) {
	table := v.of(parent)
	if _, ok := l.leaves.Load(table); ok {
		return true, nil
	}
	var there bool
	err := l.db.QueryRow(ctx, `SELECT to_regclass($1) IS NOT NULL`, table).Scan(&there)
	if there {
		l.leaves.Store(table, struct{}{})
	}
	return there, err
}

// leavesOf returns the partitions of parent, in the order of their identifiers.
func (l *Ledger) leavesOf(ctx context.Context, parent string) ([]leaf, error) {
	rows, err := l.db.Query(ctx, `
		SELECT c.relname::text
		FROM   pg_inherits i
		JOIN   pg_class c ON c.oid = i.inhrelid
		WHERE  i.inhparent = to_regclass($1)
		AND    NOT i.inhdetachpending`, parent)
	if err != nil {
		return nil, err
	}
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, err
	}
	return parseLeaves(parent, tables)
}

func parseLeaves(parent string, tables []string) ([]leaf, error) {
	var all []leaf
	for _, table := range tables {
		if table == "origin_request" {
			continue
		}
		v, err := parseLeaf(parent, table)
		if err != nil {
			return nil, err
		}
		all = append(all, v)
	}
	slices.SortFunc(all, compareLeaves)
	return all, nil
}

// missingTable reports whether err says that a partition is not there: never made, or dropped meanwhile.
func missingTable(err error) bool {
	e, ok := errors.AsType[*pgconn.PgError](err)
	return ok && e.Code == "42P01"
}

// parted splits a batch by key, in order of first appearance: each part is one statement of the same transaction.
func parted[T any, K comparable](batch []*asked[T], key func(T) K) [][]*asked[T] {
	if len(batch) == 1 {
		return [][]*asked[T]{batch}
	}
	var parts [][]*asked[T]
	at := map[K]int{}
	for _, a := range batch {
		k := key(a.write)
		i, ok := at[k]
		if !ok {
			i = len(parts)
			at[k], parts = i, append(parts, nil)
		}
		parts[i] = append(parts[i], a)
	}
	return parts
}
