package ledger

import (
	"context"
	"slices"
	"strings"
	"time"

	"codeberg.org/dataverket/segl/ca"
)

// Nothing ends before it begins: what is to end next stands in epochs that have begun by then. So a page in the order of
// expiry asks those that live on where it begins, and a few more; only where these hold less than a page does it ask on.

// mergedScopes is how many scopes are each asked by a statement that stops at a page. Those of more are asked together, by one
// that reads a page of each scope and epoch.
const mergedScopes = 32

// monthAhead is how many epochs are asked at first, beyond those that have begun where the page begins: a month.
const monthAhead = 4

// expiring returns the first most candidates of scopes after the cursor, and perhaps some that come after them.
func (l *Ledger) expiring(ctx context.Context, leaves []leaf, scopes []int32, q ca.Query, most int) ([]candidate, error) {
	leaves = slices.Clone(leaves)
	slices.SortStableFunc(leaves, func(v, w leaf) int { return int(v.epoch) - int(w.epoch) })
	from := later(later(q.After.NotAfter, q.ExpiringAfter), leaves[0].epoch.End())
	next := len(begunBefore(leaves, from)) + monthAhead
	var out []candidate
	for ; len(leaves) > 0; next *= 2 {
		next = min(next, len(leaves))
		found, err := l.expiringIn(ctx, leaves[:next], scopes, q, most)
		if err != nil {
			return nil, err
		}
		out, leaves = append(out, found...), leaves[next:]
		if len(leaves) > 0 && endedBy(out, leaves[0].epoch.Start()) >= most {
			break
		}
	}
	return out, nil
}

// endedBy counts the candidates that no later epoch's can come before.
func endedBy(list []candidate, t time.Time) (n int) {
	for _, c := range list {
		if !c.notAfter.After(t) {
			n++
		}
	}
	return n
}

// begunBefore returns the leaves whose epochs begin before t; the zero time is none.
func begunBefore(leaves []leaf, t time.Time) []leaf {
	if t.IsZero() {
		return leaves
	}
	kept := leaves[:0:0]
	for _, v := range leaves {
		if v.epoch.Start().Before(t) {
			kept = append(kept, v)
		}
	}
	return kept
}

// expiringIn asks some epochs.
func (l *Ledger) expiringIn(ctx context.Context, leaves []leaf, scopes []int32, q ca.Query, most int) ([]candidate, error) {
	sql, each := together(leaves, most), [][]int32{scopes}
	if len(scopes) <= mergedScopes {
		sql, each = merged(leaves, most, leaf.expiringAlone), slices.Collect(slices.Chunk(scopes, 1))
	}
	args := candidateArguments(q)
	var list []statement
	for _, ids := range each {
		list = append(list, statement{sql, append([]any{ids}, args...)})
	}
	found, err := all(ctx, l.db, readCandidate, list)
	return slices.Concat(found...), err
}

// together is a statement that reads a page of each scope and epoch.
func together(leaves []leaf, most int) string {
	var arms []string
	for _, v := range leaves {
		arms = append(arms, v.expiring(most))
	}
	return `
		SELECT i.serial, i.not_after, i.authority, i.profile
		FROM   unnest($1::integer[]) s (id)
		CROSS  JOIN LATERAL (` + strings.Join(arms, `
			UNION ALL`) + `
		) i
		ORDER  BY i.not_after, i.serial
		LIMIT  ` + bound(most)
}

func (v leaf) expiringAlone() string {
	return `
			SELECT c.serial, c.not_after, c.authority, c.profile
			FROM   ` + v.of("intent") + ` c
			WHERE  c.scope = ($1::integer[])[1]`
}

func (v leaf) expiring(most int) string {
	return `
			(
			SELECT c.serial, c.not_after, c.authority, c.profile
			FROM   ` + v.of("intent") + ` c
			WHERE  c.scope = s.id
			AND    c.not_after >= $2 AND c.not_after < $4
			AND    (c.not_after, c.serial) > ($2, $3)
			ORDER  BY c.not_after, c.serial
			LIMIT  ` + bound(most) + `
			)`
}
