-- Profiles as data: what a certificate may be is a row that somebody declared, and a change is another row. The first five are
-- what every ledger had in its program until now, so that nothing issued before changes its meaning.

-- +goose Up

CREATE TABLE profile (
    revision integer     NOT NULL,
    scope    integer     NULL,
    name     text        NOT NULL,
    spec     jsonb       NOT NULL,
    made_at  timestamptz NOT NULL,
    actor    text        NOT NULL,
    CONSTRAINT profile_pk PRIMARY KEY (revision),
    CONSTRAINT profile_counts_from_one CHECK (revision > 0),
    CONSTRAINT profile_scope_exists FOREIGN KEY (scope) REFERENCES scope (id),
    CONSTRAINT profile_name_is_a_label CHECK (name ~ '^[a-z][a-z0-9-]{0,39}$'),
    CONSTRAINT profile_spec_is_an_object CHECK (jsonb_typeof(spec) = 'object')
);
COMMENT ON TABLE profile IS 'What scopes declared of profiles, each change a row. Rows never change and are never taken away: facts name revisions.
scope: NULL is the platform; a scope below it only narrows. revision: over all of them, without a gap.';

INSERT INTO profile (revision, name, spec, made_at, actor)
VALUES
    (1, 'server', '{"purpose": "servers", "life": "30d", "max_life": "90d", "hosts": "required", "usage": ["server"], "keys": ["p256", "p384", "ed25519", "rsa2048"]}', now(), 'migration'),
    (2, 'workload', '{"purpose": "workloads", "life": "1d", "max_life": "7d", "hosts": "allowed", "identity": "required", "usage": ["server", "client"], "keys": ["p256", "p384", "ed25519", "rsa2048"]}', now(), 'migration'),
    (3, 'client', '{"purpose": "workloads", "life": "1d", "max_life": "7d", "identity": "required", "usage": ["client"], "keys": ["p256", "p384", "ed25519", "rsa2048"]}', now(), 'migration'),
    (4, 'database-server', '{"purpose": "databases", "life": "30d", "max_life": "90d", "hosts": "required", "usage": ["server"], "keys": ["p256", "p384", "ed25519", "rsa2048"]}', now(), 'migration'),
    (5, 'database-client', '{"purpose": "databases", "life": "1d", "max_life": "7d", "identity": "required", "role": true, "usage": ["client"], "keys": ["p256", "p384", "ed25519", "rsa2048"]}', now(), 'migration');

-- +goose StatementBegin
CREATE FUNCTION refuse_change() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'rows of % are never changed nor taken away', tg_table_name;
END
$$;
-- +goose StatementEnd
COMMENT ON FUNCTION refuse_change() IS 'For tables to whose rows others refer for ever.';
CREATE TRIGGER profile_stays
    BEFORE UPDATE OR DELETE OR TRUNCATE ON profile
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
