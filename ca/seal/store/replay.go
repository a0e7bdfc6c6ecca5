package store

import (
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"codeberg.org/dataverket/segl/ca/seal"
	"codeberg.org/dataverket/segl/internal/cert"
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

// Archived implements seal.Snapshot.
func (s snapshot) Archived(context.Context) (int64, error) { return 0, nil }

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

// Key returns the public half of the ledger's key, as the database has it, and the log's base name that goes with it. Who may write to
// the database may have put another there: a key that was kept elsewhere proves more.
func (s *Store) Key(ctx context.Context, name string) (ed25519.PublicKey, error) {
	var der []byte
	err := s.q.QueryRow(ctx, `
		SELECT public
		FROM   kms_key
		WHERE  name = $1`, name).Scan(&der)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, fmt.Errorf("key %s: %w", name, seal.ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	pub, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, fmt.Errorf("reading key %s: %w", name, err)
	}
	key, ok := pub.(ed25519.PublicKey)
	if !ok {
		return nil, fmt.Errorf("key %s is no Ed25519 key", name)
	}
	return key, nil
}
