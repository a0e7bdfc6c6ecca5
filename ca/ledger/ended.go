package ledger

import (
	"context"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/internal/cert"
)

// ending returns the first most revoked certificates of scopes after the cursor, in the order of their serials: epoch after
// epoch, first one and then, where there is little, twice as many at a time. every says that scopes are all there are.
func (l *Ledger) ending(ctx context.Context, leaves []leaf, scopes []int32, every bool, after cert.Serial, most int) ([]candidate, error) {
	from := []byte{}
	if !after.IsZero() {
		from = after.Bytes()
		for len(leaves) > 0 && leaves[0].before(leafOf(after.UID())) {
			leaves = leaves[1:]
		}
	}
	var out []candidate
	for some := 1; len(leaves) > 0 && len(out) < most; some *= 2 {
		some = min(some, len(leaves))
		var list []statement
		for _, v := range leaves[:some] {
			s := statement{v.ended(), []any{scopes, from, most}}
			if every {
				s = statement{v.endedAnywhere(), []any{from, most}}
			}
			list = append(list, s)
		}
		found, err := all(ctx, l.db, readCandidate, list)
		if err != nil {
			return nil, err
		}
		for _, part := range found {
			out = append(out, part...)
		}
		leaves = leaves[some:]
	}
	return out[:min(most, len(out))], nil
}

// ended are the revoked certificates of v in some scopes, each read by its own part of the index.
func (v leaf) ended() string {
	return `
		SELECT c.serial, c.not_after, c.authority, c.profile
		FROM   unnest($1::integer[]) s (id)
		CROSS  JOIN LATERAL (
			SELECT serial
			FROM   ` + v.of("revocation") + `
			WHERE  scope = s.id AND serial > $2
			ORDER  BY serial
			LIMIT  $3
		) e
		JOIN   ` + v.of("intent") + ` c ON c.serial = e.serial
		ORDER  BY c.serial
		LIMIT  $3`
}

// endedAnywhere are the revoked certificates of v.
func (v leaf) endedAnywhere() string {
	return `
		SELECT c.serial, c.not_after, c.authority, c.profile
		FROM   (
			SELECT serial
			FROM   ` + v.of("revocation") + `
			WHERE  serial > $1
			ORDER  BY serial
			LIMIT  $2
		) e
		JOIN   ` + v.of("intent") + ` c ON c.serial = e.serial
		ORDER  BY c.serial`
}

// byEnding reports whether q is answered by the indexes of revocations, in the order of serials.
func byEnding(q ca.Query) bool {
	return q.Revoked && q.Name == (cert.Name{}) && q.Key == (cert.KeyID{})
}
