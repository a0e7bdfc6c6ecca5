package main

import (
	"strconv"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"codeberg.org/dataverket/segl/internal/pkitest"
	"codeberg.org/dataverket/segl/internal/postgres"
	"codeberg.org/dataverket/segl/internal/postgres/postgrestest"
	"codeberg.org/dataverket/segl/internal/uid"
)

// TestEpochsCommands runs the scripts that work on a ledger's weeks, in a database whose clock nobody turns: the week that they
// take away is one of long ago.
func TestEpochsCommands(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/epochs", Cmds: commands, UpdateScripts: update, RequireExplicitExec: true,
		Setup: func(e *testscript.Env) error {
			url := postgrestest.New(t)
			db, err := postgres.Open(t.Context(), postgres.Config{URL: url})
			if err != nil {
				return err
			}
			defer db.Close()
			pkitest.On(t, db)
			now := uid.EpochOf(time.Now())
			old := now - 60
			if _, err := db.Exec(t.Context(), `SELECT make_epoch(1, $1)`, int(old)); err != nil {
				return err
			}
			if _, err := db.Exec(t.Context(), `
				INSERT INTO fact (at, what, actor)
				VALUES ($1, 'test.fact', 'test')`, old.Start().Add(time.Hour)); err != nil {
				return err
			}
			e.Setenv("SEGL_DATABASE_URL", url)
			e.Setenv("EPOCH", strconv.Itoa(int(old)))
			e.Setenv("OPEN", strconv.Itoa(int(now)))
			return nil
		},
	})
}
