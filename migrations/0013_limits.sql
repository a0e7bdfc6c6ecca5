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

-- Orders that renew themselves (RFC 8739). The first certificate is the order's own; each later one is of a term, whose
-- identifier comes from the order's, the term's number and when it is due.
CREATE TABLE acme_star (
    order_id    bytea       NOT NULL,
    account     bytea       NOT NULL,
    profile     text        NOT NULL,
    names       text[]      NOT NULL,
    key         bytea       NOT NULL,
    start_at    timestamptz NOT NULL,
    end_at      timestamptz NOT NULL,
    lifetime    integer     NOT NULL,
    adjust      integer     NOT NULL,
    allow_get   boolean     NOT NULL,
    term        integer     NOT NULL,
    next_at     timestamptz NULL,
    canceled_at timestamptz NULL,
    problem     jsonb       NULL,
    CONSTRAINT acme_star_pk PRIMARY KEY (order_id),
    CONSTRAINT acme_star_account_exists FOREIGN KEY (account) REFERENCES acme_account (id),
    CONSTRAINT acme_star_ends_after_it_begins CHECK (end_at > start_at),
    CONSTRAINT acme_star_has_a_lifetime CHECK (lifetime > 0 AND adjust >= 0),
    CONSTRAINT acme_star_nothing_is_next_once_it_is_over CHECK (next_at IS NULL OR (canceled_at IS NULL AND problem IS NULL))
) WITH (fillfactor = 70);
CREATE INDEX acme_star_due ON acme_star (next_at) WHERE next_at IS NOT NULL;
COMMENT ON TABLE acme_star IS 'Orders that renew themselves, from their finalization on: what to issue, which term is next (the first was 0), and when it
is due; NULL: none is, because all were issued, the order was canceled, or a rule refused (problem).';

ALTER TABLE acme_order ADD COLUMN auto_renewal jsonb NULL;
COMMENT ON COLUMN acme_order.auto_renewal IS 'How an order is to renew itself (RFC 8739 section 3.1.1).';

INSERT INTO epoch_table (parent, kind, reference)
VALUES ('origin', 36, NULL);

SELECT make_epoch(substring(c.relname FROM '_s(\d+)_e')::integer, substring(c.relname FROM '_e(\d+)$')::integer)
FROM   pg_inherits h
JOIN   pg_class c ON c.oid = h.inhrelid
WHERE  h.inhparent = 'intent'::regclass;
