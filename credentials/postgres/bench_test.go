package postgres_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"codeberg.org/dataverket/segl/credentials"
	"codeberg.org/dataverket/segl/credentials/credentialstest"
)

// BenchmarkLogin makes a login and ends it; BenchmarkCeiling has the same server CREATE and DROP a role with as little around
// it as can be, by as many connections. The first over the second is what being leased costs.
func BenchmarkLogin(b *testing.B) {
	h := newHouse(b)
	b.SetParallelism(4)
	b.ResetTimer()
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			g := credentialstest.Grant("password")
			if _, err := h.backend.Make(b.Context(), h.target, g); err != nil {
				b.Error(err)
			}
			if done, err := h.backend.End(b.Context(), h.target, []credentials.Grant{g}); err != nil || done[0].Err != nil {
				b.Error(err, done)
			}
		}
	})
}

func BenchmarkCeiling(b *testing.B) {
	h := newHouse(b)
	v := "SCRAM-SHA-256$4096:c2FsdHNhbHRzYWx0c2FsdA==$Y2xpZW50a2V5Y2xpZW50a2V5Y2xpZW50a2V5Y2xpZW4=:c2VydmVya2V5c2VydmVya2V5c2VydmVya2V5c2VydmU="
	cfg, err := pgxpool.ParseConfig(strings.Replace(h.SuperuserURL(), ":5432/", ":"+h.port+"/", 1))
	if err != nil {
		b.Fatal(err)
	}
	cfg.MaxConns = 8
	pool, err := pgxpool.NewWithConfig(b.Context(), cfg)
	if err != nil {
		b.Fatal(err)
	}
	defer pool.Close()
	var failed atomic.Int64
	run := func(sql string) {
		if _, err := pool.Exec(context.Background(), sql); err != nil {
			failed.Add(1)
		}
	}
	b.SetParallelism(4)
	b.ResetTimer()
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			name := credentialstest.Grant("").Principal
			run("CREATE ROLE " + name + " LOGIN PASSWORD '" + v + "' VALID UNTIL '2099-01-01' CONNECTION LIMIT 5 IN ROLE writers")
			run("ALTER ROLE " + name + " NOLOGIN PASSWORD NULL") // between the two sessions would be ended
			run("DROP ROLE " + name)
		}
	})
	if n := failed.Load(); n > 0 {
		b.Errorf("%d statements failed", n)
	}
}
