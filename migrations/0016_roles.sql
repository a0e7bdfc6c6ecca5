-- Who may do what: roles bound to identities or to claims at scopes, and what two have to agree on. Operators become admins of
-- the platform; the table operator is read by programs of the release before, and goes in a later one.

-- +goose Up

CREATE TABLE role_binding (
    id        bigint      GENERATED ALWAYS AS IDENTITY,
    role      text        NOT NULL,
    scope     integer     NOT NULL,
    identity  text        NULL,
    issuer    text        NULL,
    claim     text        NULL,
    value     text        NULL,
    made_at   timestamptz NOT NULL,
    made_by   text        NOT NULL,
    ended_at  timestamptz NULL,
    CONSTRAINT role_binding_pk PRIMARY KEY (id),
    CONSTRAINT role_binding_scope_exists FOREIGN KEY (scope) REFERENCES scope (id),
    CONSTRAINT role_binding_role_is_known CHECK (role IN ('reader', 'issuer', 'revoker', 'auditor', 'admin')),
    CONSTRAINT role_binding_is_of_an_identity_or_a_claim CHECK (
        num_nonnulls(issuer, claim, value) = CASE WHEN identity IS NULL THEN 3 ELSE 0 END
    )
);
CREATE UNIQUE INDEX role_binding_once ON role_binding (scope, role, coalesce(identity, ''), coalesce(issuer, ''), coalesce(claim, ''), coalesce(value, ''))
WHERE ended_at IS NULL;
COMMENT ON TABLE role_binding IS 'Roles of identities (or patterns of them) and of claims, at a scope and everything below it, until they ended.';

-- A platform that has operators has its scope; where it is being made just now there are none yet.
INSERT INTO role_binding (role, scope, identity, made_at, made_by)
SELECT 'admin', s.id, o.identity, o.added_at, 'migration'
FROM   operator o
CROSS  JOIN scope s
WHERE  s.path = 'platform';

CREATE TABLE approval (
    id         bigint      GENERATED ALWAYS AS IDENTITY,
    kind       text        NOT NULL,
    scope      text        NOT NULL,
    terms      text        NOT NULL,
    asked_at   timestamptz NOT NULL,
    asked_by   text        NOT NULL,
    asked_act  text        NULL,
    expires_at timestamptz NOT NULL,
    decided_at timestamptz NULL,
    decided_by text        NULL,
    approved   boolean     NULL,
    used_at    timestamptz NULL,
    CONSTRAINT approval_pk PRIMARY KEY (id),
    CONSTRAINT approval_is_decided_whole CHECK (num_nonnulls(decided_at, decided_by, approved) IN (0, 3)),
    CONSTRAINT approval_is_used_only_if_approved CHECK (used_at IS NULL OR coalesce(approved, false)),
    CONSTRAINT approval_is_given_by_another CHECK (decided_by IS NULL OR NOT approved OR (decided_by <> asked_by AND decided_by IS DISTINCT FROM asked_act)),
    CONSTRAINT approval_ends_after_it_begins CHECK (expires_at > asked_at)
);
CREATE UNIQUE INDEX approval_open_once ON approval (asked_by, kind, md5(terms)) WHERE used_at IS NULL AND coalesce(approved, true);
CREATE INDEX approval_by_time ON approval (asked_at);
COMMENT ON TABLE approval IS 'What somebody asked for that a second has to agree to, in its exact terms; and whether it was done.';
