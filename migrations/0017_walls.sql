-- The tenant wall: tenants' requests reach the database as a role that sees the rows of its caller's scopes and no others,
-- whatever a handler forgets. What is not granted to it is invisible.
--
-- The role owns nothing and cannot log in; the owner's sessions turn into it (SET ROLE) and say in each transaction which
-- scopes its caller was authenticated for (segl.scopes) and which stand above them (segl.above). wall() declares a table's
-- wall in one line; make_epoch raises it on each new partition, since a policy on a parent does not hold for who names the
-- partition. The owner is not walled: duties, publication and the platform's operators work as it.

-- +goose Up

-- Roles belong to the cluster: another database's migration may have made it, or an administrator.
-- +goose StatementBegin
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'segl_service') THEN
        BEGIN
            CREATE ROLE segl_service NOLOGIN;
        EXCEPTION
            WHEN duplicate_object OR unique_violation THEN NULL; -- at the same moment
            WHEN insufficient_privilege THEN
                RAISE EXCEPTION 'the role segl_service is not there, and % may not make it', current_user
                USING HINT = format('as an administrator: CREATE ROLE segl_service NOLOGIN; GRANT segl_service TO %I', current_user);
        END;
    END IF;
    IF NOT pg_has_role(current_user, 'segl_service', 'MEMBER') THEN
        EXECUTE format('GRANT segl_service TO %I', current_user);
    END IF;
    IF NOT has_schema_privilege('segl_service', current_schema(), 'USAGE') THEN
        EXECUTE format('GRANT USAGE ON SCHEMA %I TO segl_service', current_schema());
    END IF;
END
$$;
-- +goose StatementEnd

CREATE FUNCTION visible_scopes() RETURNS integer[]
LANGUAGE sql STABLE PARALLEL SAFE
RETURN string_to_array(nullif(current_setting('segl.scopes', true), ''), ',')::integer[];
COMMENT ON FUNCTION visible_scopes IS 'The scopes that this transaction''s callers were authenticated for, and those below them; NULL: none.';

CREATE FUNCTION scopes_above() RETURNS integer[]
LANGUAGE sql STABLE PARALLEL SAFE
RETURN string_to_array(nullif(current_setting('segl.above', true), ''), ',')::integer[];
COMMENT ON FUNCTION scopes_above IS 'The scopes above those: what they inherit is read there.';

-- Looks past the wall, and says no more than whether something is there: a row about a serial must be refused also where the
-- serial's own row cannot be seen.
-- +goose StatementBegin
CREATE FUNCTION foreign_serial(serial bytea) RETURNS boolean
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET    search_path
FROM   CURRENT AS $$
DECLARE
    -- With its schema: nobody's temporary table is read in its place.
    leaf  CONSTANT regclass := to_regclass(format('%I.intent_%s_s%s_e%s', current_schema(), to_hex(get_byte(serial, 0)), get_byte(serial, 1), epoch_of(serial)));
    whose integer;
BEGIN
    IF leaf IS NULL THEN
        RETURN false;
    END IF;
    EXECUTE format('SELECT scope FROM %s WHERE serial = $1', leaf) INTO whose USING serial;
    RETURN whose IS NOT NULL AND NOT coalesce(whose = ANY (visible_scopes()), false);
END
$$;
-- +goose StatementEnd
COMMENT ON FUNCTION foreign_serial IS 'Whether there is an intent of that serial in a scope that this transaction does not see.';

CREATE TABLE walled_table (
    name   text     NOT NULL,
    kind   smallint NULL,
    sees   text     NOT NULL,
    writes text     NOT NULL,
    may    text     NOT NULL,
    CONSTRAINT walled_table_once UNIQUE NULLS NOT DISTINCT (name, kind)
);
COMMENT ON TABLE walled_table IS 'What segl_service may (GRANT''s own words) with which rows (sees, writes: conditions) of a table, or of its partitions of a kind.
{self} is the table, {mine} and {near} its caller''s scopes without and with those above, {other} the table other or its partition of the same epoch.';

-- +goose StatementBegin
CREATE FUNCTION wall_condition(template text, self text, suffix text) RETURNS text
LANGUAGE plpgsql STABLE AS $$
DECLARE
    other text;
    done  text := replace(replace(replace(template,
        '{self}', quote_ident(self)),
        '{mine}', 'ANY ((SELECT visible_scopes())::integer[])'),
        '{near}', 'ANY ((SELECT visible_scopes() || scopes_above())::integer[])');
BEGIN
    FOR other IN
        SELECT DISTINCT m[1]
        FROM   regexp_matches(done, '\{([a-z_]+)\}', 'g') AS m
    LOOP
        IF to_regclass(quote_ident(other || suffix)) IS NULL THEN
            RETURN 'false'; -- its epoch has left: who depended on it is seen by nobody
        END IF;
        done := replace(done, '{' || other || '}', quote_ident(other || suffix));
    END LOOP;
    RETURN done;
END
$$;

CREATE FUNCTION raise_wall(parent text, self text) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    suffix  CONSTANT text := substring(self FROM length(parent) + 1);
    of_kind CONSTANT text := substring(suffix FROM '^_([0-9a-f]{2})_s');
    entry   walled_table;
BEGIN
    SELECT w.name, w.kind, w.sees, w.writes, w.may
    INTO   entry
    FROM   walled_table w
    WHERE  w.name = parent
    AND    (w.kind IS NULL OR to_hex(w.kind::integer) = of_kind)
    ORDER  BY w.kind
    LIMIT  1;
    IF entry.name IS NULL THEN
        RETURN;
    END IF;
    EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', self);
    EXECUTE format('DROP POLICY IF EXISTS wall ON %I', self);
    EXECUTE format('CREATE POLICY wall ON %I USING (%s) WITH CHECK (%s)', self,
        wall_condition(entry.sees, self, suffix), wall_condition(entry.writes, self, suffix));
    EXECUTE format('REVOKE ALL ON %I FROM segl_service', self);
    EXECUTE format('GRANT %s ON %I TO segl_service', entry.may, self);
END
$$;

CREATE FUNCTION wall(
    tablename text,
    sees      text DEFAULT 'scope = {mine}',
    may       text DEFAULT 'SELECT, INSERT',
    writes    text DEFAULT NULL,
    kind      integer DEFAULT NULL
) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    leaf text;
BEGIN
    INSERT INTO walled_table (name, kind, sees, writes, may)
    VALUES (tablename, kind, sees, coalesce(writes, sees), may);
    IF kind IS NULL THEN
        PERFORM raise_wall(tablename, tablename);
    END IF;
    FOR leaf IN
        SELECT c.relname
        FROM   pg_inherits h
        JOIN   pg_class c ON c.oid = h.inhrelid
        WHERE  h.inhparent = to_regclass(quote_ident(tablename))
        AND    starts_with(c.relname, tablename || '_')
        AND    c.relname ~ '_e[0-9]+$'
    LOOP
        PERFORM raise_wall(tablename, leaf);
    END LOOP;
END
$$;
-- +goose StatementEnd
COMMENT ON FUNCTION wall IS 'Lets tenants'' requests reach a table, as far as sees and writes say: by default, rows whose scope is the caller''s.';

-- As before, and walled.
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION make_epoch(for_site integer, for_epoch integer) RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    length CONSTANT bigint := 604800;
    entry  record;
    child  text;
    lower  text;
    upper  text;
    made   integer := 0;
    walls  text[] := '{}';
BEGIN
    FOR entry IN
        SELECT parent, kind::integer AS kind, reference
        FROM   epoch_table
        ORDER  BY reference IS NOT NULL, parent, kind
    LOOP
        IF entry.kind IS NULL THEN
            child := format('%s_e%s', entry.parent, for_epoch);
            lower := to_timestamp(for_epoch * length)::text;
            upper := to_timestamp((for_epoch + 1) * length)::text;
        ELSE
            child := format('%s_%s_s%s_e%s', entry.parent, to_hex(entry.kind), for_site, for_epoch);
            lower := '\x' || lpad(to_hex(entry.kind), 2, '0') || lpad(to_hex(for_site), 2, '0') || lpad(to_hex(for_epoch * length), 8, '0');
            upper := '\x' || lpad(to_hex(entry.kind), 2, '0') || lpad(to_hex(for_site), 2, '0') || lpad(to_hex((for_epoch + 1) * length), 8, '0');
        END IF;
        CONTINUE WHEN to_regclass(child) IS NOT NULL;
        -- Made apart and then attached: writers of the parent are not kept waiting, nor can they deadlock with this.
        EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING ALL EXCLUDING IDENTITY)', child, entry.parent);
        IF entry.reference IS NOT NULL THEN
            EXECUTE format('ALTER TABLE %I ADD CONSTRAINT %I FOREIGN KEY (serial) REFERENCES %I (serial)',
                child, entry.parent || '_needs_' || entry.reference,
                format('%s_%s_s%s_e%s', entry.reference, to_hex(entry.kind), for_site, for_epoch));
        END IF;
        EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', entry.parent, child, lower, upper);
        made := made + 1;
        walls := walls || ARRAY[entry.parent, child];
    END LOOP;
    -- Once all are there: the wall of one looks at another.
    FOR i IN 1 .. cardinality(walls) BY 2 LOOP
        PERFORM raise_wall(walls[i], walls[i + 1]);
    END LOOP;
    RETURN made;
END
$$;

-- As before; what depends on a partition is a wall that finds nothing any more.
CREATE OR REPLACE FUNCTION drop_acme_epochs(last_epoch integer) RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    leaf    record;
    dropped integer := 0;
BEGIN
    FOR leaf IN
        SELECT i.inhrelid::regclass AS name
        FROM   pg_inherits i
        JOIN   pg_class c ON c.oid = i.inhrelid
        WHERE  i.inhparent IN ('acme_order'::regclass, 'acme_authorization'::regclass, 'acme_validation'::regclass,
                               'acme_finalization'::regclass, 'acme_failure'::regclass)
        AND    substring(c.relname FROM '_e([0-9]+)$')::integer <= last_epoch
        ORDER  BY c.relname
    LOOP
        EXECUTE format('DROP TABLE %s CASCADE', leaf.name);
        dropped := dropped + 1;
    END LOOP;
    RETURN dropped;
END
$$;
-- +goose StatementEnd

-- Scopes: the caller's and those above it, by which suspension and settings are inherited. Not what they may bear: that is
-- decided from memory.
SELECT wall('scope', 'id = {near}', 'SELECT (id, path, parent, tenant, project, environment, suspended_at)', 'false');

-- The ledger. A certificate is its intent's; whoever sees that sees the rest of it.
SELECT wall('intent');
SELECT wall('outcome', '(SELECT true FROM {intent} i WHERE i.serial = {self}.serial)');
SELECT wall('replacement', '(SELECT true FROM {intent} i WHERE i.serial = {self}.serial)');
SELECT wall('ocsp_receipt', '(SELECT true FROM {intent} i WHERE i.serial = {self}.serial)', 'SELECT');
-- A mark says which certificates to look at; it is written with its intent, in one statement, and so before that can be seen.
SELECT wall('further_name', '(SELECT true FROM {intent} i WHERE i.serial = {self}.serial)', writes => 'true');
-- Whether a serial is revoked is published to everybody, and a row that were hidden would read as "not revoked".
SELECT wall('revocation', 'true', writes => 'scope = {mine}');
SELECT wall('crl_publication', 'true', 'SELECT', 'false');
SELECT wall('crl_split', 'true', 'SELECT', 'false');
-- Likewise a key that must not be certified. Whoever blocks one shows a certificate of their own that has it.
SELECT wall('blocked_key', 'true', writes => 'NOT foreign_serial(serial)');
-- Incidents that may touch what the caller sees; not who made them, nor why.
SELECT wall('incident', 'scope IS NULL OR (SELECT true FROM scope s WHERE s.path = {self}.scope)',
    'SELECT (id, cause, explanation, made_at, authority, profile, scope, name, name_mark, key, key_mark, listed, since, upto, spread, deadline, reason, everything, ends_at, ended_at, revoking_at, finished_at)',
    'false');
SELECT wall('incident_certificate', 'NOT foreign_serial(serial)', 'SELECT', 'false');
-- A mark in time, of a site: lowered where a clock is behind, so that the recovery begins earlier.
SELECT wall('settled', 'true', 'SELECT, UPDATE');
SELECT wall('authority', 'true', 'SELECT (id, name, purpose, site, parent, certificate, created_at, activated_at, retiring_at, retired_at)', 'false');
-- Why a certificate exists belongs to whoever that is: a certificate, an order, a token.
SELECT wall('origin', $$CASE get_byte({self}.origin, 0)
    WHEN 16 THEN (SELECT true FROM {intent} i WHERE i.serial = {self}.origin)
    WHEN 32 THEN (SELECT true FROM {acme_order} o WHERE o.id = {self}.origin)
    WHEN 48 THEN (SELECT true FROM {enrolment} e WHERE e.token = {self}.origin)
    ELSE NOT foreign_serial({self}.serial) END$$);
SELECT wall('origin', '(SELECT true FROM {intent} i WHERE i.serial = {self}.origin)', kind => 16);
SELECT wall('origin', '(SELECT true FROM {acme_order} o WHERE o.id = {self}.origin)', kind => 32);
SELECT wall('origin', '(SELECT true FROM {enrolment} e WHERE e.token = {self}.origin)', kind => 48);
SELECT wall('origin', 'NOT foreign_serial({self}.serial)', kind => 36);
SELECT wall('origin_request', 'NOT foreign_serial({self}.serial)');
SELECT wall('enrolment');
SELECT wall('fact');

-- ACME. What is an account's is its scope's.
SELECT wall('acme_account', may => 'SELECT, INSERT, UPDATE');
SELECT wall('acme_binding', may => 'SELECT, INSERT, UPDATE');
SELECT wall('acme_setting', 'scope = {near}', 'SELECT, INSERT, UPDATE', 'scope = {mine}');
SELECT wall('acme_order', '(SELECT true FROM acme_account a WHERE a.id = {self}.account)');
SELECT wall('acme_authorization', '(SELECT true FROM acme_account a WHERE a.id = {self}.account)', 'SELECT, INSERT, UPDATE');
SELECT wall('acme_attempt', '(SELECT true FROM acme_account a WHERE a.id = {self}.account)', 'SELECT, INSERT, UPDATE, DELETE');
SELECT wall('acme_star', '(SELECT true FROM acme_account a WHERE a.id = {self}.account)', 'SELECT, INSERT, UPDATE');
SELECT wall('acme_validation', '(SELECT true FROM {acme_authorization} c WHERE c.id = {self}.authorization_id)');
SELECT wall('acme_finalization', '(SELECT true FROM {acme_order} o WHERE o.id = {self}.order_id)');
SELECT wall('acme_failure', '(SELECT true FROM {acme_order} o WHERE o.id = {self}.order_id)');
SELECT wall('acme_replacement', '(SELECT true FROM {intent} i WHERE i.serial = {self}.serial)', 'SELECT, INSERT, UPDATE');
-- Which nonces were spent is nobody's in particular; nor is how much was used of a limit, which says no more than yes or no.
SELECT wall('acme_nonce', 'true', 'SELECT, INSERT, UPDATE');
SELECT wall('limit_bucket', 'true', 'SELECT, INSERT, UPDATE');
SELECT wall('acme_boot', 'true', 'SELECT (one, id)', 'false');

-- A key of any account anywhere is refused in a request for a certificate (RFC 8555 section 11.1): that there is one is all that this says.
CREATE VIEW account_key AS
SELECT key_id
FROM   acme_account;
COMMENT ON VIEW account_key IS 'The keys of all accounts, by their SHA-256, as its owner sees them.';
GRANT SELECT ON account_key TO segl_service;
