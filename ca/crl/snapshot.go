package crl

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
)

// A Snapshot says which transactions a reading of the ledger saw, as Postgres writes its pg_snapshot: xmin:xmax:xip,xip,…
// The empty one saw none.
type Snapshot string

// Earliest returns the one taken first. Snapshots of one database are in order: a later one sees whatever an earlier one saw.
func Earliest(a, b Snapshot) Snapshot {
	v, w := a.view(), b.view()
	// Neither xmin nor xmax ever falls, and between two of the same bounds the later has fewer still under way.
	if cmp.Or(cmp.Compare(v.min, w.min), cmp.Compare(v.max, w.max), cmp.Compare(len(w.open), len(v.open))) <= 0 {
		return a
	}
	return b
}

// A view is a Snapshot taken apart.
type view struct {
	min, max uint64
	open     []uint64 // under way between
}

// view takes s apart. What is no snapshot has seen nothing.
func (s Snapshot) view() view {
	low, rest, _ := strings.Cut(string(s), ":")
	high, open, _ := strings.Cut(rest, ":")
	var v view
	var err error
	if v.min, err = strconv.ParseUint(low, 10, 64); err != nil {
		return view{}
	}
	if v.max, err = strconv.ParseUint(high, 10, 64); err != nil {
		return view{}
	}
	for x := range strings.SplitSeq(open, ",") {
		if n, err := strconv.ParseUint(x, 10, 64); err == nil {
			v.open = append(v.open, n)
		}
	}
	return v
}

// sees reports whether what transaction x did was visible.
func (v view) sees(x uint64) bool {
	return x < v.min || x < v.max && !slices.Contains(v.open, x)
}
