package postgres

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
)

// A Listener hears hints: that something may have changed, never that it has. What it must not miss it reads from tables.
type Listener struct {
	// Channels to LISTEN on.
	Channels []string
	// Connected is called each time listening has begun, the first time and after every lost connection. Notices sent
	// before it are gone: read everything now.
	Connected func()
	// Notice is called with each notification, in order. Like Connected it runs on Listen's goroutine and holds it up.
	Notice func(channel, payload string)
	// Lost is called when the connection is lost: from then until Connected is called again, notices are missed. Nil: nobody is.
	Lost func()
	// Log is told when the connection is lost and when it is back. Nil: nobody is.
	Log *slog.Logger
}

const (
	listenProbe    = 20 * time.Second // a silent connection is asked if it lives
	listenBackoff  = 100 * time.Millisecond
	listenLongest  = 10 * time.Second
	listenFarewell = time.Second
)

// Listen delivers hints until ctx ends, on one connection outside the pool, connecting again when it is lost, at most
// every ten seconds.
func Listen(ctx context.Context, db *DB, l Listener) {
	log := l.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	for failed := 0; ctx.Err() == nil; {
		began, err := listen(ctx, db, l)
		if ctx.Err() != nil {
			return
		}
		if began {
			failed = 0
			if l.Lost != nil {
				l.Lost()
			}
		}
		wait := min(listenBackoff<<min(failed, 10), listenLongest)
		wait -= time.Duration(rand.Int64N(int64(wait) / 5)) //nolint:gosec // spreads load, guards nothing
		failed++
		log.Warn("notices lost", "retry_in", wait, "err", err)
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
}

// listen does so on one connection, and reports whether it had begun when that was lost.
func listen(ctx context.Context, db *DB, l Listener) (began bool, err error) {
	conn, err := pgx.ConnectConfig(ctx, db.Config().ConnConfig)
	if err != nil {
		return false, fmt.Errorf("connecting to listen: %w", err)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), listenFarewell)
		defer cancel()
		conn.Close(ctx) //nolint:errcheck // nothing is left to be said
	}()
	for _, channel := range l.Channels {
		if _, err := conn.Exec(ctx, "LISTEN "+pgx.Identifier{channel}.Sanitize()); err != nil {
			return false, fmt.Errorf("listening on %s: %w", channel, err)
		}
	}
	if l.Connected != nil {
		l.Connected()
	}
	for {
		if err := hear(ctx, conn, l); err != nil {
			return true, err
		}
	}
}

// hear waits for one notice, or asks a connection that has been silent whether it is still there.
func hear(ctx context.Context, conn *pgx.Conn, l Listener) error {
	waiting, cancel := context.WithTimeout(ctx, listenProbe)
	defer cancel()
	n, err := conn.WaitForNotification(waiting)
	if err == nil {
		if l.Notice != nil {
			l.Notice(n.Channel, n.Payload)
		}
		return nil
	}
	if ctx.Err() != nil || conn.IsClosed() || !errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("waiting for notices: %w", err)
	}
	probing, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	if err := conn.Ping(probing); err != nil {
		return fmt.Errorf("asking a silent connection: %w", err)
	}
	return nil
}
