package postgres

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net"

	"github.com/jackc/pgx/v5/pgconn"
)

// Violated names the constraint that refused a write, or is empty when none did.
func Violated(err error) string {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return e.ConstraintName
	}
	return ""
}

// temporary lists the SQLSTATEs of a server that will be back, or of which another takes over
// (https://www.postgresql.org/docs/current/errcodes-appendix.html). Class 08 is added by Unavailable.
var temporary = map[string]bool{
	"25006": true, // read_only_sql_transaction: we reached a standby
	"25P03": true, // idle_in_transaction_session_timeout
	"53100": true, // disk_full
	"53200": true, // out_of_memory
	"53300": true, // too_many_connections
	"53400": true, // configuration_limit_exceeded: temporary files
	"57P01": true, // admin_shutdown
	"57P02": true, // crash_shutdown
	"57P03": true, // cannot_connect_now: starting up, in recovery
	"57P05": true, // idle_session_timeout
}

// Unavailable reports whether err says that the database could not be asked just now: connection lost or refused, starting
// up, read-only, shutting down, too slow for the deadline. The same call may succeed later. A wrong password or a missing
// database is not in this class.
func Unavailable(err error) bool {
	if err == nil || errors.Is(err, context.Canceled) {
		return false
	}
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return temporary[e.Code] || e.Code[:min(2, len(e.Code))] == "08"
	}
	if e, ok := errors.AsType[*pgconn.ConnectError](err); ok {
		return e != nil
	}
	return connectionLost(err) || errors.Is(err, context.DeadlineExceeded)
}

// InDoubt reports whether err leaves open if the write took place: the reply to a commit was lost, or the server
// committed without its standby. Read again from the primary by the write's own key; never assume that it failed.
func InDoubt(err error) bool {
	_, ok := errors.AsType[*doubt](err)
	return ok
}

// A doubt is a commit of which the outcome is unknown.
type doubt struct{ cause error }

func (d *doubt) Error() string { return "outcome unknown: " + d.cause.Error() }
func (d *doubt) Unwrap() error { return d.cause }

// doubted wraps err when a commit that ended with it may nevertheless have happened. The server's own ERROR means it has
// not; FATAL means the session ended, perhaps after the commit record was written.
func doubted(err error) error {
	if err == nil || InDoubt(err) || pgconn.SafeToRetry(err) {
		return err
	}
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		if severity(e) == "ERROR" {
			return err
		}
		return &doubt{err}
	}
	if _, ok := errors.AsType[*pgconn.ConnectError](err); ok { // never got as far as sending
		return err
	}
	if connectionLost(err) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return &doubt{err}
	}
	return err
}

func severity(e *pgconn.PgError) string {
	if e.SeverityUnlocalized != "" {
		return e.SeverityUnlocalized
	}
	return e.Severity
}

func connectionLost(err error) bool {
	if _, ok := errors.AsType[*fs.PathError](err); ok {
		return false // the errno in it would pass for a net.Error: a file is amiss, not the server
	}
	if _, ok := errors.AsType[net.Error](err); ok {
		return true
	}
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) ||
		pgconn.Timeout(err) || errors.Is(err, pgconn.ErrConnClosed)
}
