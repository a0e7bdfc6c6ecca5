package server_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"codeberg.org/dataverket/segl/ca/seal/store"
	"codeberg.org/dataverket/segl/internal/postgres/postgrestest"
)

// A database that goes back while a server runs on it is noticed by what the server kept, which stays as it was.
func TestAKeptCheckpointIsNotWrittenOverByAnOlderTree(t *testing.T) {
	url := postgrestest.New(t)
	db := postgrestest.Connect(t, url)
	cfg := configure(t, url)
	cfg.Ledger.CheckpointFile = filepath.Join(t.TempDir(), "checkpoint")
	exec := func(sql string) {
		t.Helper()
		if _, err := db.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	read := func() string {
		b, err := os.ReadFile(cfg.Ledger.CheckpointFile)
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		return string(b)
	}
	head := func() (checkpoint string) {
		t.Helper()
		if err := db.QueryRow(t.Context(), `SELECT coalesce((SELECT checkpoint FROM seal_head), '')`).Scan(&checkpoint); err != nil {
			t.Fatal(err)
		}
		return checkpoint
	}
	run(t, cfg)
	until(t, "something is kept", func() bool { return read() != "" && read() == head() })
	exec(`CREATE TABLE old_head AS SELECT era, size, xid, id, edge, checkpoint, sealed_at FROM seal_head`)
	exec(`INSERT INTO fact (at, what, actor) VALUES (now(), 'test.fact', 'x')`)
	old := read()
	until(t, "what comes after it is kept", func() bool { return read() != old && read() == head() })
	kept := read()

	exec(`
		WITH gone AS (DELETE FROM fact WHERE xid > (SELECT xid FROM old_head))
		UPDATE seal_head h
		SET    size = o.size, xid = o.xid, id = o.id, edge = o.edge, checkpoint = o.checkpoint
		FROM   old_head o`)
	var why string
	until(t, "it is fenced", func() bool {
		var err error
		if why, err = store.New(db).Fence(t.Context()); err != nil {
			t.Fatal(err)
		}
		return why != ""
	})
	if !strings.Contains(why, "was kept") {
		t.Errorf("the fence says %q", why)
	}
	if now := read(); now != kept {
		t.Errorf("the evidence is gone: kept is\n%s\nand was\n%s", now, kept)
	}
}

func until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(time.Minute); !holds(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("not within a minute: %s", what)
		}
	}
}
