package postgres

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
)

// ErrSchemaNewer: the database was migrated by a newer program, which may keep its facts where this one does not look.
var ErrSchemaNewer = errors.New("database schema is newer than this program")

// ErrSchemaOlder: the database lacks migrations this program relies on.
var ErrSchemaOlder = errors.New("database schema is older than this program")

// The lock that lets one replica migrate is asked for once a second (goose's smallest step) for ten minutes.
const (
	migrateLockPeriod = 1
	migrateLockTries  = 600
)

// Migrate brings the schema of the database at url up to the newest migration in files, one replica at a time; the
// others wait and then find nothing to do. Each migration is a transaction of its own, so what failed may be run again.
// It never goes backwards, and refuses with ErrSchemaNewer a database that is ahead of files.
func Migrate(ctx context.Context, url string, files fs.FS) error {
	pc, err := parse(url)
	if err != nil {
		return err
	}
	db := stdlib.OpenDB(*pc.ConnConfig)
	defer db.Close() //nolint:errcheck // nothing is left to be written
	return migrate(ctx, db, files)
}

func migrate(ctx context.Context, db *sql.DB, files fs.FS) error {
	locker, err := lock.NewPostgresSessionLocker(lock.WithLockTimeout(migrateLockPeriod, migrateLockTries))
	if err != nil {
		return fmt.Errorf("migrating: %w", err)
	}
	provider, err := goose.NewProvider(goose.DialectPostgres, db, files,
		goose.WithSessionLocker(locker), goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return fmt.Errorf("reading migrations: %w", err)
	}
	sources := provider.ListSources()
	known := sources[len(sources)-1].Version
	if _, err := provider.Up(ctx); err != nil {
		// A newer database is the likelier explanation of whatever went wrong.
		if newer := refuseNewer(ctx, db, known); errors.Is(newer, ErrSchemaNewer) {
			return newer
		}
		return fmt.Errorf("migrating: %w", err)
	}
	return refuseNewer(ctx, db, known)
}

func refuseNewer(ctx context.Context, db *sql.DB, known int64) error {
	var at int64
	if err := db.QueryRowContext(ctx, schemaVersion).Scan(&at); err != nil {
		return fmt.Errorf("reading schema version: %w", err)
	}
	return compareSchema(at, known)
}

// schemaVersion reads goose's own table: the highest version that was applied.
const schemaVersion = `
	SELECT coalesce(max(version_id), 0)
	FROM   goose_db_version
	WHERE  is_applied`

// SchemaVersion is the number of the newest migration the database has, 0 when it has none.
func SchemaVersion(ctx context.Context, db *DB) (int64, error) {
	var at int64
	err := db.QueryRow(ctx, schemaVersion).Scan(&at)
	if e, ok := errors.AsType[*pgconn.PgError](err); ok && e.Code == "42P01" { // undefined_table
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("reading schema version: %w", err)
	}
	return at, nil
}

// CheckSchema returns nil when the database has exactly the migrations in files, else ErrSchemaNewer or ErrSchemaOlder.
// It changes nothing: it is for a server that is not the one to migrate.
func CheckSchema(ctx context.Context, db *DB, files fs.FS) error {
	known, err := newest(files)
	if err != nil {
		return err
	}
	at, err := SchemaVersion(ctx, db)
	if err != nil {
		return err
	}
	if at < known {
		return fmt.Errorf("%w: it has version %d, this program needs %d: run segl migrate", ErrSchemaOlder, at, known)
	}
	return compareSchema(at, known)
}

func compareSchema(at, known int64) error {
	if at <= known {
		return nil
	}
	return fmt.Errorf("%w: it has version %d, this program knows %d: run the newer segl, or restore a backup made before it ran",
		ErrSchemaNewer, at, known)
}

// newest is the highest number a migration in files has.
func newest(files fs.FS) (int64, error) {
	names, err := fs.Glob(files, "*.sql")
	if err != nil || len(names) == 0 {
		return 0, errors.New("reading migrations: there is none")
	}
	var highest int64
	for _, name := range names {
		n, err := goose.NumericComponent(name)
		if err != nil {
			return 0, fmt.Errorf("reading migration %s: %w", name, err)
		}
		highest = max(highest, n)
	}
	return highest, nil
}
