package postgres_test

import (
	"context"
	"sync"
	"testing"

	"codeberg.org/dataverket/segl/internal/postgres"
	"codeberg.org/dataverket/segl/internal/postgres/postgrestest"
)

func TestAListenerIsToldToReadAgainAfterEachConnection(t *testing.T) {
	url := postgrestest.New(t)
	db := postgrestest.Connect(t, url+"&application_name=listener")
	other := postgrestest.Connect(t, url)
	connected, heard := make(chan struct{}, 10), make(chan string, 10)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		postgres.Listen(ctx, db, postgres.Listener{
			Channels:  []string{"due", `odd "name"`},
			Connected: func() { connected <- struct{}{} },
			Notice:    func(channel, payload string) { heard <- channel + " " + payload },
		})
	})
	for range 3 {
		<-connected
		exec(t, other, `SELECT pg_notify('due', '7')`)
		exec(t, other, `SELECT pg_notify('odd "name"', '8')`)
		exec(t, other, `SELECT pg_notify('elsewhere', '9')`)
		for _, want := range []string{"due 7", `odd "name" 8`} {
			if got := <-heard; got != want {
				t.Errorf("heard %q, want %q", got, want)
			}
		}
		exec(t, other, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND datname = current_database()`)
	}
	<-connected
	cancel()
	wg.Wait() // it ends with its context
}
