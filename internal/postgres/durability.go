package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// ErrUnsafe: the database may lose what it acknowledged, or is one this program does not know.
var ErrUnsafe = errors.New("database is not fit for a ledger")

// The major versions this program is tested with.
const (
	oldestMajor = 15
	newestMajor = 18
)

// A rule refuses one state of the server. It is named by the setting, so that an operator allows exactly that.
type rule struct {
	name   string
	refuse func(server) string // why, or empty
	remedy string
}

// rules, with what the manual says is lost. Not to be seen from SQL, and so not judged: a data directory on tmpfs, a disk or
// a hypervisor that lies about flushing, a file system without barriers.
var rules = []rule{
	// "turning this off … can result in unrecoverable data corruption" (runtime-config-wal, fsync).
	{"fsync", isOff("fsync"), "set fsync = on"},
	// A page torn by a crash cannot be recovered; safe only on storage that writes 8 KiB atomically (full_page_writes).
	{"full_page_writes", isOff("full_page_writes"), "set full_page_writes = on"},
	// off: "there can be a delay … before a transaction is really guaranteed to be safe". local is as good as on until a
	// synchronous standby is asked for; then a failover loses acknowledged rows (synchronous_commit). Our own session's value
	// is judged: role, database and URL may each set another.
	{"synchronous_commit", lazyCommit, "set synchronous_commit = on for the server, the role, the database and in the URL"},
	// On Linux a second fsync after a failed one can report success for pages that were dropped (data_sync_retry).
	{"data_sync_retry", isOn("data_sync_retry"), "set data_sync_retry = off"},
	// Each of these has Postgres go on, without the rows, after it finds them damaged (runtime-config-developer).
	{"zero_damaged_pages", isOn("zero_damaged_pages"), "set zero_damaged_pages = off"},
	{"ignore_checksum_failure", isOn("ignore_checksum_failure"), "set ignore_checksum_failure = off"},
	{"ignore_invalid_pages", isOn("ignore_invalid_pages"), "set ignore_invalid_pages = off"},
	{"read_only", readOnly, "connect to the primary, as a role whose default_transaction_read_only is off"},
	{"server_version", otherVersion, fmt.Sprintf("use PostgreSQL %d to %d", oldestMajor, newestMajor)},
	// "data written to unlogged tables … is not crash-safe: automatically truncated after a crash" (CREATE TABLE).
	{"unlogged_tables", unlogged, "run ALTER TABLE … SET LOGGED"},
}

// Unsafe is a set of refusals an operator allows, by name. The zero value allows none.
type Unsafe struct{ names []string }

// ParseUnsafe reads the names of an allow_unsafe list. A name that stands for nothing is an error: it allows nothing, while
// its author believes otherwise.
func ParseUnsafe(names []string) (Unsafe, error) {
	var known []string
	for _, r := range rules {
		known = append(known, r.name)
	}
	for _, name := range names {
		if !slices.Contains(known, name) {
			return Unsafe{}, fmt.Errorf("allow_unsafe: %q is not a check: want some of %s", name, strings.Join(known, ", "))
		}
	}
	return Unsafe{slices.Clone(names)}, nil
}

// server is what the rules look at.
type server struct {
	settings map[string]string
	recovery bool
	unlogged []string
}

// CheckDurability refuses with ErrUnsafe a database that may lose what it acknowledged: each reason is given, with its remedy
// and the name that allows it. unlogged are the tables, or the roots of partitioned ones, that are meant to be empty after a
// crash. Settings can change under a running server, so ask again from time to time.
func CheckDurability(ctx context.Context, db *DB, allow Unsafe, unlogged ...string) error {
	s, err := look(ctx, db, unlogged)
	if err != nil {
		return fmt.Errorf("checking durability: %w", err)
	}
	var refused []string
	for _, r := range rules {
		if why := r.refuse(s); why != "" && !slices.Contains(allow.names, r.name) {
			refused = append(refused, fmt.Sprintf("%s: %s, or allow it by naming %s in allow_unsafe", why, r.remedy, r.name))
		}
	}
	if len(refused) == 0 {
		return nil
	}
	return fmt.Errorf("%w: %s", ErrUnsafe, strings.Join(refused, "; "))
}

func look(ctx context.Context, db *DB, unlogged []string) (server, error) {
	s := server{settings: map[string]string{}}
	names := []string{"synchronous_standby_names", "transaction_read_only", "server_version", "server_version_num"}
	for _, r := range rules {
		names = append(names, r.name)
	}
	batch := &pgx.Batch{}
	batch.Queue(`
		SELECT name, current_setting(name)
		FROM   pg_settings
		WHERE  name = ANY (@names)`, pgx.NamedArgs{"names": names}).Query(func(rows pgx.Rows) error {
		var name, value string
		_, err := pgx.ForEachRow(rows, []any{&name, &value}, func() error {
			s.settings[name] = value
			return nil
		})
		return err
	})
	batch.Queue(`SELECT pg_is_in_recovery()`).QueryRow(func(row pgx.Row) error { return row.Scan(&s.recovery) })
	batch.Queue(`
		SELECT c.oid::regclass::text
		FROM   pg_class AS c
		JOIN   pg_class AS root ON root.oid = coalesce(pg_partition_root(c.oid), c.oid)
		WHERE  c.relpersistence = 'u'
		AND    c.relkind IN ('r', 'p', 'm')
		AND    c.relnamespace = current_schema()::regnamespace
		AND    root.relname <> ALL (@meant::text[])
		ORDER  BY 1`, pgx.NamedArgs{"meant": append([]string{}, unlogged...)}).Query(func(rows pgx.Rows) (err error) {
		s.unlogged, err = pgx.CollectRows(rows, pgx.RowTo[string])
		return err
	})
	return s, db.SendBatch(ctx, batch).Close()
}

func isOff(name string) func(server) string { return is(name, "off") }
func isOn(name string) func(server) string  { return is(name, "on") }

func is(name, value string) func(server) string {
	return func(s server) string {
		if s.settings[name] == value {
			return name + " is " + value
		}
		return ""
	}
}

func lazyCommit(s server) string {
	switch value := s.settings["synchronous_commit"]; {
	case value == "off":
		return "synchronous_commit is off"
	case value == "local" && s.settings["synchronous_standby_names"] != "":
		return "synchronous_commit is local while synchronous_standby_names asks for a standby"
	}
	return ""
}

func readOnly(s server) string {
	switch {
	case s.recovery:
		return "the server is a standby"
	case s.settings["transaction_read_only"] == "on":
		return "transactions are read-only"
	}
	return ""
}

func otherVersion(s server) string {
	var number int
	if _, err := fmt.Sscan(s.settings["server_version_num"], &number); err != nil {
		return "the server does not say its version"
	}
	if major := number / 10000; major < oldestMajor || major > newestMajor {
		return "the server is PostgreSQL " + s.settings["server_version"]
	}
	return ""
}

func unlogged(s server) string {
	if len(s.unlogged) == 0 {
		return ""
	}
	return "not logged: " + strings.Join(s.unlogged, ", ")
}
