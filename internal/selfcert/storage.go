package selfcert

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"

	"github.com/caddyserver/certmagic"
	"github.com/jackc/pgx/v5"

	"codeberg.org/dataverket/segl/internal/postgres"
)

// A Sealer encrypts what is stored, each value for its own purpose. Every replica opens what any of them sealed.
type Sealer interface {
	Seal(ctx context.Context, purpose string, plaintext []byte) ([]byte, error)
	Open(ctx context.Context, purpose string, sealed []byte) ([]byte, error)
}

// A storage is certmagic's file system in the table site_file. Values are sealed for their key, so that a row cannot be
// passed off as another. A write is durable, and visible to every replica, on return.
type storage struct {
	db     *postgres.DB
	sealer Sealer

	mu   sync.Mutex
	held map[string]string // locks of ours, by name: the holder that the row names
}

var (
	_ certmagic.Storage          = (*storage)(nil)
	_ certmagic.TryLocker        = (*storage)(nil)
	_ certmagic.LockLeaseRenewer = (*storage)(nil)
)

func purpose(key string) string { return "site_file/" + key }

// Store implements certmagic.Storage.
func (s *storage) Store(ctx context.Context, key string, value []byte) error {
	sealed, err := s.sealer.Seal(ctx, purpose(key), value)
	if err != nil {
		return fmt.Errorf("storing %s: %w", key, err)
	}
	_, err = s.db.Exec(ctx, `
		INSERT INTO site_file (key, value, modified_at)
		VALUES (@key, @value, statement_timestamp())
		ON CONFLICT ON CONSTRAINT site_file_pk DO UPDATE
		SET    value = excluded.value, modified_at = excluded.modified_at`,
		pgx.NamedArgs{"key": key, "value": sealed})
	if err != nil {
		return fmt.Errorf("storing %s: %w", key, err)
	}
	return nil
}

// Load implements certmagic.Storage.
func (s *storage) Load(ctx context.Context, key string) ([]byte, error) {
	var sealed []byte
	err := s.db.QueryRow(ctx, `
		SELECT value
		FROM   site_file
		WHERE  key = @key`,
		pgx.NamedArgs{"key": key}).Scan(&sealed)
	if err != nil {
		return nil, missing("loading", key, err)
	}
	value, err := s.sealer.Open(ctx, purpose(key), sealed)
	if err != nil {
		return nil, fmt.Errorf("loading %s: %w", key, err)
	}
	return value, nil
}

// missing says of a row that is not there what certmagic expects.
func missing(doing, key string, err error) error {
	if errors.Is(err, pgx.ErrNoRows) {
		err = fs.ErrNotExist
	}
	return fmt.Errorf("%s %s: %w", doing, key, err)
}

// Delete implements certmagic.Storage: key and everything below it.
func (s *storage) Delete(ctx context.Context, key string) error {
	_, err := s.db.Exec(ctx, `
		DELETE FROM site_file
		WHERE  key = @key OR starts_with(key, @key || '/')`,
		pgx.NamedArgs{"key": key})
	if err != nil {
		return fmt.Errorf("deleting %s: %w", key, err)
	}
	return nil
}

// Exists implements certmagic.Storage.
func (s *storage) Exists(ctx context.Context, key string) bool {
	_, err := s.Stat(ctx, key)
	return err == nil
}

// List implements certmagic.Storage: below path every file, or its immediate children only.
func (s *storage) List(ctx context.Context, path string, recursive bool) ([]string, error) { //nolint:revive // certmagic's signature
	rows, err := s.db.Query(ctx, `
		SELECT key
		FROM   site_file
		WHERE  @path = '' OR starts_with(key, @path || '/')
		ORDER  BY key`,
		pgx.NamedArgs{"path": path})
	if err != nil {
		return nil, fmt.Errorf("listing %s: %w", path, err)
	}
	keys, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("listing %s: %w", path, err)
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("listing %s: %w", path, fs.ErrNotExist)
	}
	if !recursive {
		keys = children(path, keys)
	}
	return keys, nil
}

// children cuts each of keys, all below path, after its first component there.
func children(path string, keys []string) []string {
	skip := 0
	if path != "" {
		skip = len(path) + 1
	}
	var found []string
	for _, key := range keys {
		name, _, _ := strings.Cut(key[skip:], "/")
		found = append(found, key[:skip]+name)
	}
	slices.Sort(found) // a directory's files need not be neighbours in the database's order
	return slices.Compact(found)
}

// Stat implements certmagic.Storage.
func (s *storage) Stat(ctx context.Context, key string) (certmagic.KeyInfo, error) {
	info := certmagic.KeyInfo{Key: key}
	err := s.db.QueryRow(ctx, `
		SELECT modified_at, octet_length(value), key = @key
		FROM   site_file
		WHERE  key = @key OR starts_with(key, @key || '/')
		ORDER  BY key = @key DESC, modified_at DESC
		LIMIT  1`,
		pgx.NamedArgs{"key": key}).Scan(&info.Modified, &info.Size, &info.IsTerminal)
	if err != nil {
		return certmagic.KeyInfo{}, missing("looking at", key, err)
	}
	if !info.IsTerminal {
		info.Size = 0
	}
	return info, nil
}
