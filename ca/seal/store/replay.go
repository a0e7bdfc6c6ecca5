package store

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"codeberg.org/dataverket/segl/ca/seal"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/uid"
)

// Replay hands do everything as it stands at one instant.
func (s *Store) Replay(ctx context.Context, do func(seal.Snapshot) error) error {
	tx, err := s.db.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err != nil {
		return err
	}
	defer tx.Rollback(context.WithoutCancel(ctx)) //nolint:errcheck // it only reads
	return do(snapshotOf(tx))
}

// A snapshot is a seal.Snapshot.
type snapshot struct{ reader }

// snapshotOf reads everything anew, what a Store remembers included.
func snapshotOf(tx pgx.Tx) snapshot { return snapshot{readerOf(tx)} }

// Gaps implements seal.Snapshot.
func (s snapshot) Gaps(ctx context.Context) (map[int]string, error) {
	rows, err := s.q.Query(ctx, `
		SELECT era, checkpoint
		FROM   seal_gap`)
	if err != nil {
		return nil, err
	}
	out := map[int]string{}
	var (
		era        int
		checkpoint string
	)
	_, err = pgx.ForEachRow(rows, []any{&era, &checkpoint}, func() error {
		out[era] = checkpoint
		return nil
	})
	return out, err
}

// Left implements seal.Snapshot.
func (s snapshot) Left(ctx context.Context) (seal.Left, error) {
	left := seal.Left{Epochs: map[uid.Epoch]bool{}}
	rows, err := s.q.Query(ctx, `
		SELECT epoch, coalesce((rows ->> ('fact_e' || epoch))::bigint, 0)
		FROM   epoch_archive
		WHERE  dropped_at IS NOT NULL AND restored_at IS NULL`)
	if err != nil {
		return left, err
	}
	var (
		epoch int32
		facts int64
	)
	_, err = pgx.ForEachRow(rows, []any{&epoch, &facts}, func() error {
		left.Epochs[uid.Epoch(epoch)] = true
		left.Facts += facts
		return nil
	})
	return left, err
}

// Outcomes implements seal.Snapshot.
func (s snapshot) Outcomes(ctx context.Context, after cert.Serial, limit int) ([]seal.Ending, error) {
	rows, err := s.q.Query(ctx, `
		SELECT serial, signature IS NOT NULL
		FROM   outcome
		WHERE  serial > $1
		ORDER  BY serial
		LIMIT  $2`, from(after), limit)
	return endings(rows, err)
}

// Revocations implements seal.Snapshot.
func (s snapshot) Revocations(ctx context.Context, after cert.Serial, limit int) ([]seal.Ending, error) {
	rows, err := s.q.Query(ctx, `
		SELECT serial, false
		FROM   revocation
		WHERE  serial > $1
		ORDER  BY serial
		LIMIT  $2`, from(after), limit)
	return endings(rows, err)
}

func from(after cert.Serial) []byte {
	if after.IsZero() {
		return []byte{}
	}
	return after.Bytes()
}

func endings(rows pgx.Rows, err error) ([]seal.Ending, error) {
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (e seal.Ending, err error) {
		var serial []byte
		if err = row.Scan(&serial, &e.Signed); err == nil {
			e.Serial, err = cert.SerialFromBytes(serial)
		}
		return e, err
	})
}

// Log returns the log that the database says this is, for verifying. Who may write to the database may have put another key there:
// a verifier key that was kept elsewhere proves more. ErrNotFound: it was never served.
func (s *Store) Log(ctx context.Context) (l seal.Log, err error) {
	var public []byte
	err = s.q.QueryRow(ctx, `
		SELECT origin, public
		FROM   seal_log`).Scan(&l.Base, &public)
	l.Public = public
	return l, missing(err)
}

// Claim makes l the log of this database, or fails where it has another: what was signed under one name and key is not
// continued under others.
func (s *Store) Claim(ctx context.Context, l seal.Log) error {
	_, err := s.db.Exec(ctx, `
		INSERT INTO seal_log (origin, public)
		VALUES ($1, $2)
		ON     CONFLICT DO NOTHING`, l.Base, []byte(l.Public))
	if err != nil {
		return fmt.Errorf("writing down the ledger's name and key: %w", err)
	}
	has, err := s.Log(ctx)
	if err != nil {
		return fmt.Errorf("reading the ledger's name and key: %w", err)
	}
	switch {
	case has.Base != l.Base:
		return fmt.Errorf("ledger.origin is %q and checkpoints were signed as %q: put that back, whoever kept one knows no other", l.Base, has.Base)
	case !has.Public.Equal(l.Public):
		return fmt.Errorf("checkpoints of %q were signed with another key than %s", l.Base, l.Key.Name())
	}
	return nil
}
