package cluster

import (
	"context"
	"fmt"
	"strconv"

	"github.com/jackc/pgx/v5"
)

// serviceRole is the role as which tenants' requests reach the database. The owner, which is an ordinary role, cannot make it.
const serviceRole = `
	DO $$
	BEGIN
	    IF pg_is_in_recovery() THEN
	        RETURN; -- it takes no writes yet, and has the roles of what it is a copy of
	    END IF;
	    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'segl_service') THEN
	        CREATE ROLE segl_service NOLOGIN;
	    END IF;
	    GRANT segl_service TO ` + owner + `;
	END
	$$`

// makeRoles makes what migrations need of the cluster, also in one that an earlier program made.
func (c *Cluster) makeRoles(ctx context.Context) error {
	cfg, err := pgx.ParseConfig(c.SuperuserURL())
	if err != nil {
		return fmt.Errorf("making its roles: %w", err)
	}
	if at, err := strconv.ParseUint(c.cfg.Settings["port"], 10, 16); err == nil { // one that settings moved
		cfg.Port = uint16(at)
	}
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return fmt.Errorf("making its roles: %w", err)
	}
	defer conn.Close(ctx) //nolint:errcheck // the statement's own error counts
	if _, err := conn.Exec(ctx, serviceRole); err != nil {
		return fmt.Errorf("making its roles: %w", err)
	}
	return nil
}
