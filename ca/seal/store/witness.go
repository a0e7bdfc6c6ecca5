package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"golang.org/x/mod/sumdb/tlog"

	"codeberg.org/dataverket/segl/ca/seal"
)

var _ seal.Memory = (*Store)(nil)

// Witnessed implements seal.Memory.
func (r reader) Witnessed(ctx context.Context, origin string) (w seal.Witnessed, err error) {
	var root []byte
	err = r.q.QueryRow(ctx, `
		SELECT size, root, checkpoint, at
		FROM   seal_witnessed
		WHERE  origin = $1`, origin).Scan(&w.Size, &root, &w.Checkpoint, &w.At)
	if err != nil {
		return seal.Witnessed{}, missing(err)
	}
	w.Root = tlog.Hash(root)
	return w, nil
}

// Remember implements seal.Memory: the size decides, by compare and set.
func (s *Store) Remember(ctx context.Context, origin string, old int64, next seal.Witnessed) error {
	if next.Size < old {
		return fmt.Errorf("remembering %d of %s after %d: sizes only grow", next.Size, origin, old)
	}
	tag, err := s.db.Exec(ctx, `
		INSERT INTO seal_witnessed AS w (origin, size, root, checkpoint, at)
		SELECT $1, $3, $4, $5, $6
		WHERE  $2 = 0 OR EXISTS (SELECT FROM seal_witnessed WHERE origin = $1)
		ON     CONFLICT (origin) DO UPDATE
		SET    size = excluded.size, root = excluded.root, checkpoint = excluded.checkpoint, at = excluded.at
		WHERE  w.size = $2`,
		origin, old, next.Size, next.Root[:], next.Checkpoint, next.At)
	if err != nil {
		return err
	}
	if tag.RowsAffected() == 1 {
		return nil
	}
	held, err := s.Witnessed(ctx, origin)
	if err != nil && !errors.Is(err, seal.ErrNotFound) {
		return err
	}
	return &seal.Conflict{Size: held.Size}
}

// Fence returns why nothing may be issued, or nothing where it may.
func (s *Store) Fence(ctx context.Context) (why string, err error) {
	err = s.q.QueryRow(ctx, `
		SELECT why
		FROM   seal_fence`).Scan(&why)
	if errors.Is(err, pgx.ErrNoRows) {
		err = nil
	}
	return why, err
}

// FenceChannel is the Postgres channel on which a change of the fence is noticed. It is a hint: who depends on it polls.
const FenceChannel = "segl_fence"
