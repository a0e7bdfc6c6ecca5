-- How often something may be done, counted across replicas by the generic cell rate algorithm: one number a subject, the
-- time (in microseconds since 1970, by this database's clock) at which all its uses are forgotten.
--
-- Counts are unlogged: they cost no disk wait, and after a crash or failover everybody begins anew. A row whose time has come
-- says nothing that its absence does not, and is swept.

-- +goose Up

CREATE UNLOGGED TABLE limit_bucket (
    name    text    NOT NULL,
    subject text    NOT NULL,
    clear   bigint  NOT NULL,
    seen    bigint  NOT NULL,
    step    bigint  NOT NULL,
    burst   integer NOT NULL,
    granted integer NOT NULL,
    CONSTRAINT limit_bucket_pk PRIMARY KEY (name, subject),
    CONSTRAINT limit_bucket_step_positive CHECK (step > 0),
    CONSTRAINT limit_bucket_never_exceeded CHECK (granted >= 0 AND granted <= burst)
) WITH (fillfactor = 50);
COMMENT ON TABLE limit_bucket IS 'What was used of each limit by each subject. clear: when all is forgotten, if no more is used.
seen, step, burst, granted: when it was asked last, under which rate, and how much was given.';

CREATE FUNCTION limit_ahead(clear bigint, seen bigint, was bigint, step bigint) RETURNS bigint
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN CASE
    WHEN clear <= seen THEN 0
    WHEN was = step THEN clear - seen
    ELSE ceil((clear - seen)::numeric * step / was)::bigint
END;
COMMENT ON FUNCTION limit_ahead IS 'How long until all is forgotten that was used of a bucket under step was, if each use takes step from now on.';

CREATE TABLE limit_override (
    name       text        NOT NULL,
    scope      integer     NOT NULL,
    rate       text        NOT NULL,
    changed_at timestamptz NOT NULL,
    CONSTRAINT limit_override_pk PRIMARY KEY (name, scope),
    CONSTRAINT limit_override_scope_exists FOREIGN KEY (scope) REFERENCES scope (id)
);
COMMENT ON TABLE limit_override IS 'Rates of a scope, and of those below it that have none of their own, in place of the usual ones.';
