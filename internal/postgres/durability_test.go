package postgres_test

import (
	"errors"
	"strings"
	"testing"

	"codeberg.org/dataverket/segl/internal/postgres"
	"codeberg.org/dataverket/segl/internal/postgres/postgrestest"
)

func allow(t *testing.T, names ...string) postgres.Unsafe {
	t.Helper()
	u, err := postgres.ParseUnsafe(names)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func TestADatabaseThatKeepsItsWordIsAccepted(t *testing.T) {
	db := postgrestest.Connect(t, postgrestest.Cluster(t, nil).URL())
	exec(t, db, `CREATE TABLE meant (n integer) PARTITION BY RANGE (n)`)
	// Since PostgreSQL 18 only the partitions of such a table may be unlogged.
	exec(t, db, `CREATE UNLOGGED TABLE meant_1 PARTITION OF meant FOR VALUES FROM (1) TO (2)`)
	if err := postgres.CheckDurability(t.Context(), db, postgres.Unsafe{}, "meant", "acme_boot", "acme_nonce", "limit_bucket"); err != nil {
		t.Error(err)
	}
}

// The cluster all tests share runs without fsync and full_page_writes: a good example of a bad one.
func TestEachUnsafeSettingIsRefusedAndAllowedByName(t *testing.T) {
	const base = "fsync full_page_writes"
	for name, how := range map[string]struct {
		options string // of the connection
		sql     string
	}{
		"fsync":              {},
		"full_page_writes":   {},
		"synchronous_commit": {options: "&synchronous_commit=off"},
		"read_only":          {options: "&default_transaction_read_only=on"},
		"unlogged_tables":    {sql: `CREATE UNLOGGED TABLE forgotten (n integer)`},
	} {
		t.Run(name, func(t *testing.T) {
			url := postgrestest.Empty(t)
			if how.sql != "" {
				exec(t, postgrestest.Connect(t, url), how.sql)
			}
			db := postgrestest.Connect(t, url+how.options)
			others := strings.Fields(strings.ReplaceAll(base, name, ""))
			err := postgres.CheckDurability(t.Context(), db, allow(t, others...))
			if !errors.Is(err, postgres.ErrUnsafe) || !strings.Contains(err.Error(), "naming "+name+" in allow_unsafe") {
				t.Errorf("not refused by name: %v", err)
			}
			if strings.Count(err.Error(), "naming") != 1 {
				t.Errorf("refused for more: %v", err)
			}
			if err := postgres.CheckDurability(t.Context(), db, allow(t, append(others, name)...)); err != nil {
				t.Errorf("not allowed by name: %v", err)
			}
		})
	}
}

func TestLocalCommitIsRefusedOnceAStandbyIsAskedFor(t *testing.T) {
	c := postgrestest.Cluster(t, map[string]string{"synchronous_standby_names": "nobody"})
	db := postgrestest.Connect(t, c.URL()+"&synchronous_commit=local")
	if err := postgres.CheckDurability(t.Context(), db, postgres.Unsafe{}); !errors.Is(err, postgres.ErrUnsafe) {
		t.Errorf("%v", err)
	}
}

func TestAnUnknownNameAllowsNothing(t *testing.T) {
	for _, name := range []string{"fsnyc", "", "FSYNC", "fsync,full_page_writes"} {
		if _, err := postgres.ParseUnsafe([]string{"fsync", name}); err == nil || !strings.Contains(err.Error(), "full_page_writes") {
			t.Errorf("%q: %v", name, err)
		}
	}
}
