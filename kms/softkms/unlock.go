package softkms

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"codeberg.org/dataverket/segl/internal/postgres"
)

// ErrPassphrase: the passphrase is not the one this database's keys are sealed under.
var ErrPassphrase = errors.New("wrong passphrase: give the one this database was first started with")

// A lock is the row of kms_seal: how the passphrase becomes a key, and a sealed value that proves it did.
type lock struct {
	salt       []byte
	iterations int
	proof      []byte
}

// proofPurpose is what the proof is sealed for; the proof's content is empty.
const proofPurpose = "proof"

// unlock returns the box of this database, and makes it one if it has none.
func unlock(ctx context.Context, db *postgres.DB, p Passphrase, iterations int) (box, error) {
	if p.IsZero() {
		return box{}, errors.New("no passphrase was given")
	}
	l, err := loadLock(ctx, db)
	if errors.Is(err, pgx.ErrNoRows) {
		if err := makeLock(ctx, db, p, iterations); err != nil {
			return box{}, err
		}
		l, err = loadLock(ctx, db) // ours, or that of a replica that was faster
	}
	if err != nil {
		return box{}, fmt.Errorf("reading how keys are sealed: %w", failure(err))
	}
	if l.iterations < minIterations || l.iterations > maxIterations {
		return box{}, fmt.Errorf("keys are sealed under %d iterations, which this program never writes: the row was altered", l.iterations)
	}
	b, err := derive(p, l.salt, l.iterations)
	if err != nil {
		return box{}, err
	}
	if _, err := b.proof.open(proofPurpose, l.proof); err != nil {
		return box{}, ErrPassphrase
	}
	return b, nil
}

func loadLock(ctx context.Context, db *postgres.DB) (lock, error) {
	var l lock
	err := db.QueryRow(ctx, `
		SELECT salt, iterations, proof
		FROM   kms_seal`).Scan(&l.salt, &l.iterations, &l.proof)
	return l, err
}

func makeLock(ctx context.Context, db *postgres.DB, p Passphrase, iterations int) error {
	salt := make([]byte, saltSize)
	rand.Read(salt) //nolint:errcheck // never returns one
	b, err := derive(p, salt, iterations)
	if err != nil {
		return err
	}
	_, err = db.Exec(ctx, `
		INSERT INTO kms_seal (salt, iterations, proof)
		VALUES (@salt, @iterations, @proof)
		ON CONFLICT ON CONSTRAINT kms_seal_pk DO NOTHING`,
		pgx.NamedArgs{"salt": salt, "iterations": iterations, "proof": b.proof.seal(proofPurpose, nil)})
	if err != nil {
		return fmt.Errorf("writing how keys are sealed: %w", failure(err))
	}
	return nil
}
