package postgres

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// CheckWall refuses with ErrNoWall a database in which ServiceRole could see past its wall, and says why and what to do.
func CheckWall(ctx context.Context, db *DB) error {
	rows, err := db.Query(AsOwner(ctx), `
		WITH service AS (
			SELECT oid, rolsuper, rolbypassrls, rolcreaterole, rolcanlogin
			FROM   pg_roles
			WHERE  rolname = $1
		), ours AS (
			SELECT c.oid, c.relname, c.relowner, c.relkind, c.relrowsecurity
			FROM   pg_class c
			WHERE  c.relnamespace = current_schema()::regnamespace
			AND    c.relkind IN ('r', 'p', 'v', 'm')
		)
		SELECT $1 || ' is not there: as an administrator, CREATE ROLE ' || $1 || ' NOLOGIN'
		WHERE  NOT EXISTS (SELECT FROM service)
		UNION  ALL
		SELECT $1 || ' is a superuser: ALTER ROLE ' || $1 || ' NOSUPERUSER'
		FROM   service
		WHERE  rolsuper
		UNION  ALL
		SELECT $1 || ' passes row-level security by: ALTER ROLE ' || $1 || ' NOBYPASSRLS'
		FROM   service
		WHERE  rolbypassrls
		UNION  ALL
		SELECT $1 || ' may make roles: ALTER ROLE ' || $1 || ' NOCREATEROLE'
		FROM   service
		WHERE  rolcreaterole
		UNION  ALL
		SELECT DISTINCT 'the tables are ' || $1 || '''s, or of a role that it is a member of (' || o.relowner::regrole || '): give them another owner'
		FROM   service s
		JOIN   ours o ON pg_has_role(s.oid, o.relowner, 'MEMBER')
		WHERE  NOT s.rolsuper
		UNION  ALL
		SELECT $1 || ' is a member of ' || m.roleid::regrole || ', which is more than its grants: REVOKE that'
		FROM   service s
		JOIN   pg_auth_members m ON m.member = s.oid
		UNION  ALL
		SELECT 'table ' || o.relname || ' is granted to ' || $1 || ' and has no wall: SELECT wall(…) in its migration'
		FROM   service s
		JOIN   ours o ON has_any_column_privilege(s.oid, o.oid, 'SELECT, INSERT, UPDATE, REFERENCES') OR has_table_privilege(s.oid, o.oid, 'DELETE, TRUNCATE, TRIGGER')
		WHERE  o.relkind IN ('r', 'p')
		AND    NOT s.rolsuper
		AND    NOT o.relrowsecurity
		AND    NOT pg_has_role(s.oid, o.relowner, 'MEMBER')`, ServiceRole)
	if err != nil {
		return fmt.Errorf("looking at the tenant wall: %w", err)
	}
	holes, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("looking at the tenant wall: %w", err)
	}
	if len(holes) > 0 {
		return fmt.Errorf("%w: %s", ErrNoWall, strings.Join(holes, "; "))
	}
	return nil
}
