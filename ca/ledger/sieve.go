package ledger

import (
	"context"
	"fmt"
	"math/bits"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"codeberg.org/dataverket/segl/ca"
	"codeberg.org/dataverket/segl/internal/postgres"
	"codeberg.org/dataverket/segl/internal/uid"
)

// A look-up by name or key would have to ask every week that is kept. Of a week that has closed the ledger keeps, besides its
// rows, a Bloom filter of its marks, five octets a certificate, cut into blocks by a mark's first bits. A look-up reads one
// block of each week, in one statement on one table, and asks only the weeks whose block may hold the mark: those that do, and
// one in a hundred of those that do not. Weeks without a filter are asked.
//
// The filter of a week has all its marks: it is made under a lock that keeps writers of the week out, and from then on a
// trigger takes it away, in the writer's own transaction, should anything be written there after all.

const (
	sieveBits   = 10                              // of a filter, a mark
	sieveProbes = 7                               // what finds most with those
	sieveBlock  = 128                             // marks of a block, at most and on average
	sieveLeast  = 16                              // octets of a block
	sieveMost   = 64 << 20 / 5 * 4                // marks of a week that gets one: what is held in memory while it is made
	sieveLevels = 31                              // of the 32 first bits of a mark
	sieveWaits  = `SET LOCAL lock_timeout = '2s'` // a writer of such a week is rare, and waits no longer than this
)

// A sieve is the filter of one week.
type sieve struct {
	level  int
	blocks [][]byte
}

// newSieve returns an empty one for n marks.
func newSieve(n int64) sieve {
	level := bits.Len64(uint64(max(n-1, 0)) / sieveBlock) //nolint:gosec // not negative
	each := max(int(n>>level)*sieveBits/8+1, sieveLeast)  //nolint:mnd // bits of an octet
	all := make([]byte, each<<level)
	s := sieve{level, make([][]byte, 1<<level)}
	for i := range s.blocks {
		s.blocks[i] = all[i*each : (i+1)*each : (i+1)*each]
	}
	return s
}

func (s sieve) add(mark int64) {
	block := s.blocks[sieveOf(mark)>>(32-s.level)] //nolint:mnd // bits
	for at := range probes(mark, len(block)) {
		block[at/8] |= 1 << (at % 8)
	}
}

// sieveOf returns the bits of a mark that number its block.
func sieveOf(mark int64) int64 { return int64(uint64(mark) >> 32) } //nolint:gosec,mnd // all bits count

// mayHold reports whether a block may have mark.
func mayHold(block []byte, mark int64) bool {
	for at := range probes(mark, len(block)) {
		if block[at/8]&(1<<(at%8)) == 0 {
			return false
		}
	}
	return true
}

// probes are the bits of a mark in a block of so many octets: Kirsch and Mitzenmacher's two hashes, of what the block's number
// leaves.
func probes(mark int64, octets int) func(yield func(uint64) bool) {
	return func(yield func(uint64) bool) {
		x := uint64(mark) * 0x9e3779b97f4a7c15 //nolint:gosec // all bits count; 2⁶⁴ over the golden ratio
		first, step := x>>32, x&0xffffffff|1   //nolint:mnd // halves
		for i := range uint64(sieveProbes) {
			if octets == 0 || !yield((first+i*step)%uint64(octets*8)) { //nolint:gosec,mnd // bits of a block
				return
			}
		}
	}
}

// onlyOnce keeps a statement that names a week, and is run once, from being prepared in place of one that is run often.
const onlyOnce = pgx.QueryExecModeExec

// CloseEpochs makes what is to be known of each week that has closed and of which it is not known yet. It is the work of a duty
// and safe to repeat; it returns how many weeks it closed.
func (l *Ledger) CloseEpochs(ctx context.Context, now time.Time) (n int, err error) {
	leaves, err := l.leavesOf(ctx, "intent")
	if err != nil {
		return 0, err
	}
	known, err := l.closed(ctx)
	if err != nil {
		return 0, err
	}
	for _, v := range leaves {
		if _, ok := known[v]; ok || v.site != l.site || now.Before(v.epoch.End().Add(closedAfter)) {
			continue
		}
		if err := l.closeEpoch(ctx, v, now); err != nil && !missingTable(err) {
			return n, fmt.Errorf("closing epoch %d: %w", v.epoch, err)
		}
		n++
	}
	return n, nil
}

// closed returns, for each week that has been closed, when the last certificate of each profile ends.
func (l *Ledger) closed(ctx context.Context) (map[leaf]map[string]time.Time, error) {
	rows, err := l.db.Query(postgres.AsOwner(ctx), `
		SELECT epoch, ends
		FROM   closed_epoch
		WHERE  site = $1`, int16(l.site))
	if err != nil {
		return nil, err
	}
	out := map[leaf]map[string]time.Time{}
	var epoch int32
	var ends map[string]time.Time
	_, err = pgx.ForEachRow(rows, []any{&epoch, &ends}, func() error {
		out[leaf{uid.Certificate, l.site, uid.Epoch(epoch)}] = ends //nolint:gosec // ours
		ends = nil
		return nil
	})
	return out, err
}

func (l *Ledger) closeEpoch(ctx context.Context, v leaf, now time.Time) error {
	return postgres.Tx(ctx, l.db, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, sieveWaits); err != nil {
			return err
		}
		// Who is writing to the week is waited for, and who comes now waits for us.
		if _, err := tx.Exec(ctx, `
			CREATE OR REPLACE TRIGGER closed_epoch_changed
			AFTER INSERT ON `+v.of("intent")+`
			FOR EACH ROW EXECUTE FUNCTION closed_epoch_changed('`+strconv.Itoa(int(v.site))+`', '`+strconv.Itoa(int(v.epoch))+`')`, onlyOnce); err != nil {
			return err
		}
		n, ends, err := contentsOf(ctx, tx, v)
		if err != nil {
			return err
		}
		s, err := sieveIn(ctx, tx, v, n)
		if err != nil {
			return err
		}
		tag, err := tx.Exec(ctx, `
			INSERT INTO closed_epoch (site, epoch, level, marks, ends, made_at)
			VALUES ($1, $2, $3, $4, $5, $6)
			ON     CONFLICT DO NOTHING`, int16(v.site), int32(v.epoch), int16(s.level), n, ends, now) //nolint:gosec // few
		if err != nil || tag.RowsAffected() == 0 { // another replica was first
			return err
		}
		_, err = tx.CopyFrom(ctx, pgx.Identifier{"closed_epoch_block"}, []string{"site", "epoch", "block", "bits"},
			pgx.CopyFromSlice(len(s.blocks), func(i int) ([]any, error) {
				return []any{int16(v.site), int32(v.epoch), int32(i), s.blocks[i]}, nil //nolint:gosec // few
			}))
		return err
	})
}

// A reader is a transaction, or the database.
type reader interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// contentsOf reads a week through: how many marks it has, and when the last certificate of each profile ends.
func contentsOf(ctx context.Context, tx reader, v leaf) (marks int64, ends map[string]time.Time, err error) {
	rows, err := tx.Query(ctx, `
		SELECT profile, max(not_after), count(key_mark) + count(name_mark)
		FROM   `+v.of("intent")+`
		GROUP  BY profile`, onlyOnce)
	if err != nil {
		return 0, nil, err
	}
	ends = map[string]time.Time{}
	var profile string
	var last time.Time
	var n int64
	_, err = pgx.ForEachRow(rows, []any{&profile, &last, &n}, func() error {
		ends[profile] = last.UTC()
		marks += n
		return nil
	})
	if err != nil {
		return 0, nil, err
	}
	err = tx.QueryRow(ctx, `
		SELECT count(mark)
		FROM   `+v.of("further_name"), onlyOnce).Scan(&n)
	return marks + n, ends, err
}

// sieveIn makes the filter of a week of n marks; of one that has too many, a filter without blocks, by which the week is asked.
func sieveIn(ctx context.Context, tx pgx.Tx, v leaf, n int64) (sieve, error) {
	if n > sieveMost {
		return sieve{}, nil
	}
	s := newSieve(n)
	for _, list := range []string{
		`SELECT key_mark FROM ` + v.of("intent") + ` WHERE key_mark IS NOT NULL`,
		`SELECT name_mark FROM ` + v.of("intent") + ` WHERE name_mark IS NOT NULL`,
		`SELECT mark FROM ` + v.of("further_name"),
	} {
		rows, err := tx.Query(ctx, list, onlyOnce)
		if err != nil {
			return s, err
		}
		var mark int64
		if _, err := pgx.ForEachRow(rows, []any{&mark}, func() error { s.add(mark); return nil }); err != nil {
			return s, err
		}
	}
	return s, nil
}

// sifted leaves out the weeks that cannot hold a mark.
func (l *Ledger) sifted(ctx context.Context, leaves []leaf, mark int64) ([]leaf, error) {
	rows, err := l.db.Query(postgres.AsOwner(ctx), `
		SELECT c.site, c.epoch, b.bits
		FROM   closed_epoch c
		JOIN   closed_epoch_block b ON b.site = c.site AND b.epoch = c.epoch AND b.block = ($1::bigint >> (32 - c.level))`, sieveOf(mark))
	if err != nil {
		return nil, err
	}
	not := map[leaf]bool{}
	var site int16
	var epoch int32
	var block []byte
	_, err = pgx.ForEachRow(rows, []any{&site, &epoch, &block}, func() error {
		not[leaf{uid.Certificate, byte(site), uid.Epoch(epoch)}] = !mayHold(block, mark) //nolint:gosec // ours
		return nil
	})
	if err != nil {
		return nil, err
	}
	kept := leaves[:0:0]
	for _, v := range leaves {
		if !not[v] {
			kept = append(kept, v)
		}
	}
	return kept, nil
}

// markedAtOnce is how many weeks are asked at first for those that bear a mark: mostly there are no more.
const markedAtOnce = 8

// marked returns the first most candidates that bear a mark, after the cursor, and perhaps some that come after them. The weeks
// that may have some are asked in their order, more at each turn, until none that is left can come before a page's last.
func (l *Ledger) marked(
	ctx context.Context, leaves []leaf, scopes []int32, q ca.Query, most int, mark int64, parts ...func(leaf) string,
) ([]candidate, error) {
	leaves, err := l.sifted(ctx, leaves, mark)
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(leaves, func(v, w leaf) int { return int(v.epoch) - int(w.epoch) })
	args := append(append([]any{scopes}, candidateArguments(q)...), mark)
	var out []candidate
	for n := markedAtOnce; len(leaves) > 0; n *= 2 {
		n = min(n, len(leaves))
		list := make([]statement, n)
		for i, v := range leaves[:n] {
			list[i] = statement{merged([]leaf{v}, most, parts...), args}
		}
		found, err := all(ctx, l.db, readCandidate, list)
		if err != nil {
			return nil, err
		}
		out, leaves = append(out, slices.Concat(found...)...), leaves[n:]
		if len(leaves) > 0 && endedBy(out, leaves[0].epoch.Start()) >= most {
			break
		}
	}
	return out, nil
}
