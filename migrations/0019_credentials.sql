-- What is derived from an identity: where logins are made (targets), who gets which (bindings), and those there are (leases).
--
-- Whether a lease is over is computed from what it hangs on: its own end, its binding's and target's, its scope's suspension and
-- its certificate's revocation. ended_at is that, written down by whoever noticed; gone_at is that the target no longer has it.

-- +goose Up

ALTER TABLE scope
    ADD COLUMN root text GENERATED ALWAYS AS (coalesce(tenant, 'platform')) STORED,
    ADD CONSTRAINT scope_of_its_root UNIQUE (id, root);
COMMENT ON COLUMN scope.root IS 'The tenant, or platform: what references carry where two rows must be of one tenant.';
GRANT SELECT (root) ON scope TO segl_service;

CREATE TABLE credential_target (
    id        bigint      GENERATED ALWAYS AS IDENTITY,
    scope     integer     NOT NULL,
    root      text        NOT NULL,
    name      text        NOT NULL,
    kind      text        NOT NULL,
    address   text        NOT NULL,
    authority text        NOT NULL,
    manager   text        NOT NULL,
    database  text        NOT NULL,
    made_at   timestamptz NOT NULL,
    ended_at  timestamptz NULL,
    CONSTRAINT credential_target_pk PRIMARY KEY (id),
    CONSTRAINT credential_target_of_its_root UNIQUE (id, root),
    CONSTRAINT credential_target_scope_exists FOREIGN KEY (scope, root) REFERENCES scope (id, root),
    CONSTRAINT credential_target_kind_is_known CHECK (kind IN ('postgresql', 'mysql', 'redis'))
);
CREATE UNIQUE INDEX credential_target_name_once ON credential_target (scope, name) WHERE ended_at IS NULL;
COMMENT ON TABLE credential_target IS 'Servers at which logins are made, and as whom we log in there. authority: who vouches for its certificate; empty: our roots.';

CREATE TABLE credential_binding (
    id          bigint      GENERATED ALWAYS AS IDENTITY,
    scope       integer     NOT NULL,
    root        text        NOT NULL,
    name        text        NOT NULL,
    subject     text        NOT NULL,
    target      bigint      NULL,
    way         text        NULL,
    database    text        NOT NULL,
    member_of   text        NOT NULL,
    role        text        NOT NULL,
    life        integer     NOT NULL,
    connections integer     NOT NULL,
    leases      integer     NOT NULL,
    audiences   text[]      NOT NULL,
    scopes      text[]      NOT NULL,
    made_at     timestamptz NOT NULL,
    ended_at    timestamptz NULL,
    CONSTRAINT credential_binding_pk PRIMARY KEY (id),
    CONSTRAINT credential_binding_scope_exists FOREIGN KEY (scope, root) REFERENCES scope (id, root),
    CONSTRAINT credential_binding_target_of_its_root FOREIGN KEY (target, root) REFERENCES credential_target (id, root),
    CONSTRAINT credential_binding_for_one_thing CHECK ((target IS NULL) = (cardinality(audiences) > 0)),
    CONSTRAINT credential_binding_login_has_a_way CHECK ((target IS NULL) = (way IS NULL)),
    CONSTRAINT credential_binding_way_is_known CHECK (way IN ('leased', 'certificate', 'static')),
    CONSTRAINT credential_binding_lasts CHECK (life > 0)
);
CREATE UNIQUE INDEX credential_binding_name_once ON credential_binding (scope, name) WHERE ended_at IS NULL;
CREATE INDEX credential_binding_by_target ON credential_binding (target);
COMMENT ON TABLE credential_binding IS 'Whose identity (subject: a SPIFFE ID or a pattern) gets what: a login at a target, or tokens for audiences; life in seconds.';

CREATE TABLE lease (
    id         bytea       NOT NULL,
    binding    bigint      NOT NULL,
    target     bigint      NOT NULL,
    scope      integer     NOT NULL,
    identity   text        NOT NULL,
    serial     bytea       NOT NULL,
    principal  text        NOT NULL,
    made_at    timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    ready_at   timestamptz NULL,
    ended_at   timestamptz NULL,
    why        text        NULL,
    gone_at    timestamptz NULL,
    tries      integer     NOT NULL DEFAULT 0,
    retry_at   timestamptz NULL,
    trouble    text        NULL,
    CONSTRAINT lease_pk PRIMARY KEY (id),
    CONSTRAINT lease_binding_exists FOREIGN KEY (binding) REFERENCES credential_binding (id),
    CONSTRAINT lease_target_exists FOREIGN KEY (target) REFERENCES credential_target (id),
    CONSTRAINT lease_scope_exists FOREIGN KEY (scope) REFERENCES scope (id),
    CONSTRAINT lease_end_has_a_cause CHECK ((ended_at IS NULL) = (why IS NULL)),
    CONSTRAINT lease_gone_only_once_ended CHECK (gone_at IS NULL OR ended_at IS NOT NULL),
    CONSTRAINT lease_owed_until_gone CHECK ((ended_at IS NOT NULL AND gone_at IS NULL) = (retry_at IS NOT NULL))
) WITH (fillfactor = 70);
CREATE UNIQUE INDEX lease_principal_once ON lease (principal) WHERE starts_with(principal, 'segl_');
CREATE INDEX lease_living ON lease (expires_at) WHERE ended_at IS NULL;
CREATE INDEX lease_living_of_certificate ON lease (serial) WHERE ended_at IS NULL;
CREATE INDEX lease_living_of_binding ON lease (binding, identity) WHERE ended_at IS NULL;
CREATE INDEX lease_living_of_target ON lease (target) WHERE ended_at IS NULL;
CREATE INDEX lease_living_in_scope ON lease (scope) WHERE ended_at IS NULL;
CREATE INDEX lease_unready ON lease (made_at) WHERE ended_at IS NULL AND ready_at IS NULL;
CREATE INDEX lease_owed ON lease (target, retry_at) WHERE retry_at IS NOT NULL;
CREATE INDEX lease_gone ON lease (gone_at) WHERE gone_at IS NOT NULL;
CREATE INDEX lease_by_certificate ON lease (serial, id);
CREATE INDEX lease_by_identity ON lease (identity, id);
CREATE INDEX lease_by_scope ON lease (scope, id);
COMMENT ON TABLE lease IS 'Logins, each from before it is made. retry_at: when its target is to be asked (again) to end it; trouble: why it did not.';

CREATE TABLE lease_receipt (
    lease  bytea       NOT NULL,
    n      bigint      GENERATED ALWAYS AS IDENTITY,
    effect text        NOT NULL,
    count  integer     NOT NULL,
    at     timestamptz NOT NULL,
    CONSTRAINT lease_receipt_pk PRIMARY KEY (lease, n),
    CONSTRAINT lease_receipt_of_a_lease FOREIGN KEY (lease) REFERENCES lease (id) ON DELETE CASCADE
);
COMMENT ON TABLE lease_receipt IS 'What was done at a target for a lease, and when.';

SELECT wall('credential_target', 'scope = {near}', 'SELECT', 'false');
SELECT wall('credential_binding', 'scope = {near}', 'SELECT', 'false');
SELECT wall('lease', may => 'SELECT, INSERT, UPDATE');
SELECT wall('lease_receipt', '(SELECT true FROM lease l WHERE l.id = {self}.lease)');
