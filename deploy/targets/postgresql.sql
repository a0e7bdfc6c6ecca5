-- What Segl may do at a PostgreSQL server (15 or newer), and nothing else.
--
-- Run it as a superuser, in the database "postgres" and in every database whose logins are leased:
--
--     psql -X -v ON_ERROR_STOP=1 -d postgres -f postgresql.sql
--     psql -X -v ON_ERROR_STOP=1 -d shop -f postgresql.sql
--
-- and name the groups whose rights Segl may hand out, once:
--
--     GRANT shop_writers TO segl_owner WITH ADMIN OPTION;
--
-- Segl logs in as segl, by its certificate alone. segl owns nothing, is in no group and may make no role: it may call the
-- functions below. They run as segl_owner, which nobody can log in as, and touch only roles that they made (segl_ and twenty-one
-- letters), those in segl.static and segl.certified, and groups granted to segl_owner WITH ADMIN OPTION. It may be run again.

BEGIN;

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'segl_owner') THEN
        CREATE ROLE segl_owner NOLOGIN NOINHERIT CREATEROLE;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'segl') THEN
        CREATE ROLE segl LOGIN CONNECTION LIMIT 64;
    END IF;
END
$$;
ALTER ROLE segl_owner INHERIT;
GRANT pg_signal_backend, pg_read_all_stats TO segl_owner;
CREATE SCHEMA IF NOT EXISTS segl AUTHORIZATION segl_owner;
GRANT USAGE ON SCHEMA segl TO segl;

CREATE TABLE IF NOT EXISTS segl.static (role name PRIMARY KEY, lease text NULL);
COMMENT ON TABLE segl.static IS 'Roles whose password Segl may change; lease: whose it is now. Filled by you, in the database of the binding.';
CREATE TABLE IF NOT EXISTS segl.certified (role name PRIMARY KEY);
COMMENT ON TABLE segl.certified IS 'Roles without a password that Segl made for holders of certificates.';
ALTER TABLE segl.static OWNER TO segl_owner;
ALTER TABLE segl.certified OWNER TO segl_owner;

-- demand refuses, by SQLSTATEs of our own: SG001 clock, SG002 group, SG003 name, SG004 too late, SG005 no verifier.
CREATE OR REPLACE FUNCTION segl.demand(holds boolean, code text, why text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF holds IS NOT TRUE THEN
        RAISE EXCEPTION USING ERRCODE = code, MESSAGE = why;
    END IF;
END
$$;

-- judge refuses what no function may be asked: at is the caller's clock, before when it stops waiting for an answer.
CREATE OR REPLACE FUNCTION segl.judge(verifier text, heir text, at timestamptz, before timestamptz) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM segl.demand(clock_timestamp() BETWEEN at - interval '30 s' AND at + interval '30 s', 'SG001', 'the clocks differ by more than 30 s');
    PERFORM segl.demand(clock_timestamp() < before, 'SG004', 'too late: nobody waits for it any more');
    PERFORM segl.demand(verifier IS NULL OR verifier ~ '^SCRAM-SHA-256\$\d+:[A-Za-z0-9+/=]+\$[A-Za-z0-9+/=]+:[A-Za-z0-9+/=]+$', 'SG005', 'not a SCRAM-SHA-256 verifier');
    PERFORM segl.demand(
        EXISTS (
            SELECT FROM pg_auth_members m
            JOIN   pg_roles g ON g.oid = m.roleid
            JOIN   pg_roles o ON o.oid = m.member
            WHERE  g.rolname = heir AND o.rolname = 'segl_owner' AND m.admin_option AND NOT g.rolsuper AND NOT g.rolcreaterole AND heir !~ '^pg_'
        ), 'SG002', 'the group is not granted to segl_owner WITH ADMIN OPTION');
END
$$;

CREATE OR REPLACE FUNCTION segl.make(principal text, verifier text, until timestamptz, connections integer, heir text, at timestamptz, before timestamptz)
RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM segl.judge(verifier, heir, at, before);
    PERFORM segl.demand(principal ~ '^segl_[a-z2-7]{21}$' AND verifier IS NOT NULL, 'SG003', 'not the name of a lease');
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = principal) THEN
        EXECUTE format('ALTER ROLE %I LOGIN PASSWORD %L VALID UNTIL %L CONNECTION LIMIT %s', principal, verifier, until, connections);
    ELSE
        EXECUTE format('CREATE ROLE %I LOGIN PASSWORD %L VALID UNTIL %L CONNECTION LIMIT %s IN ROLE %I', principal, verifier, until, connections, heir);
    END IF;
END
$$;

CREATE OR REPLACE FUNCTION segl.extend(principal text, until timestamptz, at timestamptz, before timestamptz)
RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM segl.demand(clock_timestamp() BETWEEN at - interval '30 s' AND at + interval '30 s', 'SG001', 'the clocks differ by more than 30 s');
    PERFORM segl.demand(clock_timestamp() < before, 'SG004', 'too late: nobody waits for it any more');
    PERFORM segl.demand(principal ~ '^segl_[a-z2-7]{21}$' OR EXISTS (SELECT FROM segl.static s WHERE s.role = principal), 'SG003', 'not the name of a lease');
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = principal AND rolcanlogin) THEN
        RETURN false;
    END IF;
    EXECUTE format('ALTER ROLE %I VALID UNTIL %L', principal, until);
    RETURN true;
END
$$;

-- certify makes a role that only a certificate opens: it has no password.
CREATE OR REPLACE FUNCTION segl.certify(principal text, connections integer, heir text, at timestamptz, before timestamptz)
RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM segl.judge(NULL, heir, at, before);
    PERFORM segl.demand(principal ~ '^[a-z_][a-z0-9_]{0,62}$' AND principal !~ '^(pg_|segl|postgres$)', 'SG003', 'not a name that may be certified');
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = principal) THEN
        EXECUTE format('CREATE ROLE %I LOGIN PASSWORD NULL CONNECTION LIMIT %s IN ROLE %I', principal, connections, heir);
        INSERT INTO segl.certified (role) VALUES (principal) ON CONFLICT DO NOTHING;
    END IF;
    PERFORM segl.demand(EXISTS (SELECT FROM segl.certified c WHERE c.role = principal), 'SG003', 'the role is there, and not ours');
END
$$;

-- shut ends the sessions of one certificate, by its serial number.
CREATE OR REPLACE FUNCTION segl.shut(principal text, serial numeric)
RETURNS integer LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT count(*) FILTER (WHERE pg_terminate_backend(a.pid))::integer
    FROM   pg_stat_activity a
    JOIN   pg_stat_ssl s ON s.pid = a.pid
    WHERE  a.usename = principal AND s.client_serial = serial AND EXISTS (SELECT FROM segl.certified c WHERE c.role = principal)
$$;

-- rotate gives a role that exists already another password.
CREATE OR REPLACE FUNCTION segl.rotate(principal text, verifier text, until timestamptz, owner text, at timestamptz, before timestamptz)
RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM segl.demand(clock_timestamp() BETWEEN at - interval '30 s' AND at + interval '30 s', 'SG001', 'the clocks differ by more than 30 s');
    PERFORM segl.demand(clock_timestamp() < before, 'SG004', 'too late: nobody waits for it any more');
    PERFORM segl.demand(verifier ~ '^SCRAM-SHA-256\$', 'SG005', 'not a SCRAM-SHA-256 verifier');
    UPDATE segl.static s SET lease = owner WHERE s.role = principal;
    PERFORM segl.demand(FOUND, 'SG003', 'the role is not in segl.static');
    EXECUTE format('ALTER ROLE %I PASSWORD %L VALID UNTIL %L', principal, verifier, until);
END
$$;

-- retract takes the password away again, unless it is somebody else's by now, and ends the role's sessions.
CREATE OR REPLACE FUNCTION segl.retract(principal text, owner text)
RETURNS integer LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    ended integer;
BEGIN
    UPDATE segl.static s SET lease = NULL WHERE s.role = principal AND s.lease = owner;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    EXECUTE format('ALTER ROLE %I PASSWORD NULL', principal);
    SELECT count(*) FILTER (WHERE pg_terminate_backend(a.pid)) INTO ended FROM pg_stat_activity a WHERE a.usename = principal;
    RETURN ended;
END
$$;

-- close lets nobody in any more. It commits before sessions are ended, so that none begins meanwhile.
CREATE OR REPLACE FUNCTION segl.close(list text[])
RETURNS SETOF text LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    principal text;
BEGIN
    FOR principal IN SELECT r.rolname FROM pg_roles r WHERE r.rolname = ANY (list) AND r.rolname ~ '^segl_[a-z2-7]{21}$' ORDER BY r.rolname LOOP
        EXECUTE format('ALTER ROLE %I NOLOGIN PASSWORD NULL', principal);
        RETURN NEXT principal;
    END LOOP;
END
$$;

-- finish ends the sessions of closed roles, gives what they own in this database to their group, and drops them. One that
-- cannot be dropped says why, and stays closed.
CREATE OR REPLACE FUNCTION segl.finish(list text[], OUT principal text, OUT sessions integer, OUT owned integer, OUT trouble text)
RETURNS SETOF record LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '3s' AS $$
DECLARE
    role  oid;
    heir  text;
    ended jsonb;
    tries integer := 0;
BEGIN
    SELECT jsonb_object_agg(e.usename, e.n) INTO ended
    FROM   (
        SELECT a.usename, count(*) FILTER (WHERE pg_terminate_backend(a.pid)) AS n
        FROM   pg_stat_activity a
        WHERE  a.usename = ANY (list) AND a.usename ~ '^segl_[a-z2-7]{21}$'
        GROUP  BY a.usename
    ) e;
    WHILE ended IS NOT NULL AND tries < 200 LOOP -- what a session holds is free once it has gone
        PERFORM pg_stat_clear_snapshot();
        EXIT WHEN NOT EXISTS (SELECT FROM pg_stat_activity a WHERE a.usename = ANY (list));
        PERFORM pg_sleep(0.01);
        tries := tries + 1;
    END LOOP;
    FOREACH principal IN ARRAY list LOOP
        SELECT r.oid INTO role FROM pg_roles r WHERE r.rolname = principal AND NOT r.rolcanlogin AND r.rolname ~ '^segl_[a-z2-7]{21}$';
        CONTINUE WHEN NOT FOUND;
        sessions := coalesce((ended ->> principal)::integer, 0);
        SELECT count(*) INTO owned FROM pg_shdepend d WHERE d.refclassid = 'pg_authid'::regclass AND d.refobjid = role AND d.deptype = 'o';
        trouble := NULL;
        BEGIN
            IF EXISTS (SELECT FROM pg_shdepend d WHERE d.refclassid = 'pg_authid'::regclass AND d.refobjid = role) THEN
                SELECT g.rolname INTO heir
                FROM   pg_auth_members m
                JOIN   pg_roles g ON g.oid = m.roleid
                WHERE  m.member = role
                LIMIT  1;
                EXECUTE format('GRANT %I TO segl_owner', principal);
                EXECUTE format('REASSIGN OWNED BY %I TO %I', principal, heir);
                EXECUTE format('DROP OWNED BY %I RESTRICT', principal); -- rights alone are left: what it owned is its group's by now
            END IF;
            EXECUTE format('DROP ROLE %I', principal);
        EXCEPTION WHEN dependent_objects_still_exist THEN
            trouble := 'it owns something, or was granted something, in: ' || coalesce((
                SELECT string_agg(DISTINCT b.datname, ' ')
                FROM   pg_shdepend d
                JOIN   pg_database b ON b.oid = d.dbid
                WHERE  d.refclassid = 'pg_authid'::regclass AND d.refobjid = role), '?');
        WHEN OTHERS THEN
            trouble := SQLSTATE || ': ' || SQLERRM;
        END;
        RETURN NEXT;
    END LOOP;
END
$$;

CREATE OR REPLACE FUNCTION segl.principals() RETURNS SETOF text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT r.rolname::text FROM pg_roles r WHERE r.rolname ~ '^segl_[a-z2-7]{21}$'
$$;

-- standing says as what the caller is here, by which the caller refuses to be more than it needs.
CREATE OR REPLACE FUNCTION segl.standing(OUT powerful boolean, OUT at timestamptz)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT r.rolsuper OR r.rolcreaterole OR r.rolcreatedb OR r.rolreplication OR r.rolbypassrls
           OR EXISTS (SELECT FROM pg_auth_members m WHERE m.member = r.oid), clock_timestamp()
    FROM   pg_roles r
    WHERE  r.rolname = session_user
$$;

DO $$
DECLARE
    f regprocedure;
BEGIN
    FOR f IN SELECT p.oid::regprocedure FROM pg_proc p WHERE p.pronamespace = 'segl'::regnamespace LOOP
        EXECUTE format('ALTER FUNCTION %s OWNER TO segl_owner', f);
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', f);
    END LOOP;
    FOR f IN SELECT p.oid::regprocedure FROM pg_proc p WHERE p.pronamespace = 'segl'::regnamespace AND p.proname NOT IN ('demand', 'judge') LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO segl', f);
    END LOOP;
END
$$;

COMMIT;
