package postgres_test

import (
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"codeberg.org/dataverket/segl/internal/postgres"
	"codeberg.org/dataverket/segl/internal/postgres/postgrestest"
	"codeberg.org/dataverket/segl/migrations"
)

func files(named map[string]string) fstest.MapFS {
	out := fstest.MapFS{}
	for name, sql := range named {
		out[name] = &fstest.MapFile{Data: []byte("-- +goose Up\n" + sql)}
	}
	return out
}

var (
	one = files(map[string]string{"0001_a.sql": "CREATE TABLE a (n integer);"})
	two = files(map[string]string{"0001_a.sql": "CREATE TABLE a (n integer);", "0002_b.sql": "CREATE TABLE b (n integer);"})
)

func TestReplicasThatMigrateAtOnceDoItOnce(t *testing.T) {
	url := postgrestest.Empty(t)
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			if err := postgres.Migrate(t.Context(), url, two); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	db := postgrestest.Connect(t, url)
	if at, err := postgres.SchemaVersion(t.Context(), db); at != 2 || err != nil {
		t.Errorf("version %d, %v", at, err)
	}
	var applied int
	if err := db.QueryRow(t.Context(), `SELECT count(*) FROM goose_db_version WHERE version_id > 0`).Scan(&applied); err != nil || applied != 2 {
		t.Errorf("applied %d times, %v", applied, err)
	}
}

func TestMigrateRefusesASchemaNewerThanItself(t *testing.T) {
	url := postgrestest.Empty(t)
	if err := postgres.Migrate(t.Context(), url, two); err != nil {
		t.Fatal(err)
	}
	db := postgrestest.Connect(t, url)
	for name, err := range map[string]error{
		"migrate": postgres.Migrate(t.Context(), url, one),
		"check":   postgres.CheckSchema(t.Context(), db, one),
	} {
		if !errors.Is(err, postgres.ErrSchemaNewer) {
			t.Fatalf("%s: %v", name, err)
		}
		for _, part := range []string{"version 2", "knows 1", "run the newer segl"} {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%s says %q, which lacks %q", name, err, part)
			}
		}
	}
}

func TestAServerThatDoesNotMigrateRefusesAnOlderSchema(t *testing.T) {
	url := postgrestest.Empty(t)
	db := postgrestest.Connect(t, url)
	if err := postgres.CheckSchema(t.Context(), db, one); !errors.Is(err, postgres.ErrSchemaOlder) {
		t.Errorf("an empty database: %v", err)
	}
	if err := postgres.Migrate(t.Context(), url, one); err != nil {
		t.Fatal(err)
	}
	if err := postgres.CheckSchema(t.Context(), db, one); err != nil {
		t.Errorf("the same schema: %v", err)
	}
	if err := postgres.CheckSchema(t.Context(), db, two); !errors.Is(err, postgres.ErrSchemaOlder) || !strings.Contains(err.Error(), "segl migrate") {
		t.Errorf("one migration behind: %v", err)
	}
}

func TestAFailedMigrationLeavesTheOneBefore(t *testing.T) {
	url := postgrestest.Empty(t)
	broken := files(map[string]string{
		"0001_a.sql": "CREATE TABLE a (n integer);",
		"0002_b.sql": "CREATE TABLE b (n integer); CREATE TABLE a (n integer);",
	})
	if err := postgres.Migrate(t.Context(), url, broken); err == nil {
		t.Fatal("it succeeded")
	}
	db := postgrestest.Connect(t, url)
	if at, err := postgres.SchemaVersion(t.Context(), db); at != 1 || err != nil {
		t.Errorf("version %d, %v", at, err)
	}
	if err := postgres.Migrate(t.Context(), url, two); err != nil {
		t.Errorf("mended: %v", err)
	}
}

func TestMigrateRefusesNothingToDo(t *testing.T) {
	if err := postgres.Migrate(t.Context(), postgrestest.Empty(t), fstest.MapFS{}); err == nil {
		t.Error("a program without migrations is broken")
	}
}

func TestATestsDatabaseHasThisProgramsSchema(t *testing.T) {
	db := postgrestest.Open(t)
	if err := postgres.CheckSchema(t.Context(), db, migrations.FS); err != nil {
		t.Error(err)
	}
}
