package postgrestest_test

import (
	"testing"

	"codeberg.org/dataverket/segl/internal/postgres/postgrestest"
)

func TestEachTestHasADatabaseOfItsOwn(t *testing.T) {
	a, b := postgrestest.Open(t), postgrestest.Open(t)
	if _, err := a.Exec(t.Context(), `INSERT INTO duty (name, holder, term, expires_at) VALUES ('x', 'y', 1, now())`); err != nil {
		t.Fatal(err)
	}
	var n int
	if err := b.QueryRow(t.Context(), `SELECT count(*) FROM duty`).Scan(&n); err != nil || n != 0 {
		t.Fatalf("the other database has %d rows, err %v", n, err)
	}
}
