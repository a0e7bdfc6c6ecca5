-- Whose proofs let whom in, beside one-time tokens. Operators make methods and end them; a proof that was used is an
-- enrolment of its own (0001), under a name that only this proof has, so that it is good once on every replica and leaves
-- with its week.

-- +goose Up

CREATE TABLE enrolment_method (
    id       bigint      GENERATED ALWAYS AS IDENTITY,
    scope    integer     NOT NULL,
    name     text        NOT NULL,
    kind     text        NOT NULL,
    profile  text        NOT NULL,
    workload text        NULL,
    names    text[]      NOT NULL,
    subject  text        NOT NULL,
    issuer   text        NULL,
    audience text        NOT NULL,
    claims   jsonb       NOT NULL,
    keys     bytea       NULL,
    roots    bytea       NULL,
    cluster  text        NULL,
    made_at  timestamptz NOT NULL,
    ended_at timestamptz NULL,
    CONSTRAINT enrolment_method_pk PRIMARY KEY (id),
    CONSTRAINT enrolment_method_scope_exists FOREIGN KEY (scope) REFERENCES scope (id),
    CONSTRAINT enrolment_method_kind_known CHECK (kind IN ('oidc', 'kubernetes', 'jwk', 'x5c')),
    CONSTRAINT enrolment_method_is_about_somebody CHECK (subject <> ''),
    CONSTRAINT enrolment_method_ends_after_it_begins CHECK (ended_at >= made_at)
);
CREATE UNIQUE INDEX enrolment_method_stands_once ON enrolment_method (scope, name) WHERE ended_at IS NULL;
CREATE INDEX enrolment_method_by_scope ON enrolment_method (scope, id);
COMMENT ON TABLE enrolment_method IS 'Whose proofs let whom in: one kind of proof, one scope, one profile. An ended one is kept, and its name is free again.';

SELECT wall('enrolment_method', may => 'SELECT');
