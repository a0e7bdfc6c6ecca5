-- ACME (RFC 8555): accounts, orders, authorizations and what became of them.
--
-- Rows are facts and are not updated: an order is valid because the ledger has a certificate of that origin, an
-- authorization because a validation says so. What ages is range-partitioned on identifiers that begin kind · site ·
-- second, like the ledger, and leaves by dropping partitions. Only the queue of attempts is worked on in place.

-- +goose Up

CREATE TABLE acme_account (
    id             bytea       NOT NULL,
    scope          integer     NOT NULL,
    key_id         bytea       NOT NULL,
    key            bytea       NOT NULL,
    thumbprint     text        NOT NULL,
    contact        text[]      NOT NULL,
    terms_agreed   boolean     NOT NULL,
    created_at     timestamptz NOT NULL,
    deactivated_at timestamptz NULL,
    CONSTRAINT acme_account_pk PRIMARY KEY (id),
    CONSTRAINT acme_account_key_once UNIQUE (key_id, scope),
    CONSTRAINT acme_account_scope_exists FOREIGN KEY (scope) REFERENCES scope (id),
    CONSTRAINT acme_account_key_id_is_sha256 CHECK (octet_length(key_id) = 32)
);
COMMENT ON TABLE acme_account IS 'ACME accounts, each of one scope and one key (SPKI; key_id its SHA-256; thumbprint RFC 7638).';

CREATE TABLE acme_order (
    id             bytea       NOT NULL,
    account        bytea       NOT NULL,
    expires_at     timestamptz NOT NULL,
    profile        text        NOT NULL,
    names          text[]      NOT NULL,
    authorizations bytea[]     NOT NULL,
    CONSTRAINT acme_order_pk PRIMARY KEY (id),
    CONSTRAINT acme_order_has_names CHECK (cardinality(names) > 0),
    CONSTRAINT acme_order_name_has_authorization CHECK (cardinality(names) = cardinality(authorizations))
) PARTITION BY RANGE (id);
COMMENT ON TABLE acme_order IS 'What an account asked for: names, and the authorization of each, in the same order.';

CREATE TABLE acme_authorization (
    id         bytea       NOT NULL,
    account    bytea       NOT NULL,
    expires_at timestamptz NOT NULL,
    name       text        NOT NULL,
    token      bytea       NOT NULL,
    CONSTRAINT acme_authorization_pk PRIMARY KEY (id),
    CONSTRAINT acme_authorization_token_is_128_bits CHECK (octet_length(token) >= 16)
) PARTITION BY RANGE (id);
COMMENT ON TABLE acme_authorization IS 'An account''s claim to a name, to be proved by one of the challenges that share its token.';

CREATE TABLE acme_attempt (
    authorization_id bytea       NOT NULL,
    method           text        NOT NULL,
    asked_at         timestamptz NOT NULL,
    tries            smallint    NOT NULL,
    next_try_at      timestamptz NOT NULL,
    leased_until     timestamptz NOT NULL,
    CONSTRAINT acme_attempt_pk PRIMARY KEY (authorization_id)
) WITH (fillfactor = 70);
COMMENT ON TABLE acme_attempt IS 'The queue: validations asked for and not ended, and until when, by the database''s clock, some replica has each.';

CREATE TABLE acme_validation (
    authorization_id bytea       NOT NULL,
    at               timestamptz NOT NULL,
    method           text        NOT NULL,
    evidence         text        NULL,
    problem          jsonb       NULL,
    CONSTRAINT acme_validation_pk PRIMARY KEY (authorization_id),
    CONSTRAINT acme_validation_succeeded_or_failed CHECK ((evidence IS NULL) <> (problem IS NULL))
) PARTITION BY RANGE (authorization_id);
COMMENT ON TABLE acme_validation IS 'How an authorization ended: proved, with what was seen, or not, with the problem. The primary key decides once.';

CREATE TABLE acme_finalization (
    order_id bytea       NOT NULL,
    at       timestamptz NOT NULL,
    key      bytea       NOT NULL,
    CONSTRAINT acme_finalization_pk PRIMARY KEY (order_id)
) PARTITION BY RANGE (order_id);
CREATE INDEX acme_finalization_by_time ON acme_finalization USING brin (at);
COMMENT ON TABLE acme_finalization IS 'The one certificate request an order had: its key (SPKI). The names are the order''s. The certificate is in the ledger.';

CREATE TABLE acme_failure (
    order_id bytea       NOT NULL,
    at       timestamptz NOT NULL,
    problem  jsonb       NOT NULL,
    CONSTRAINT acme_failure_pk PRIMARY KEY (order_id)
) PARTITION BY RANGE (order_id);
COMMENT ON TABLE acme_failure IS 'Orders that were finalized and then refused, and why.';

CREATE TABLE acme_settled (
    one    boolean     NOT NULL DEFAULT true,
    before timestamptz NOT NULL,
    CONSTRAINT acme_settled_pk PRIMARY KEY (one),
    CONSTRAINT acme_settled_only_one CHECK (one)
);
COMMENT ON TABLE acme_settled IS 'Every finalization before that time has its certificate or its failure: the issue duty reads from there.';

CREATE UNLOGGED TABLE acme_boot (
    one boolean NOT NULL DEFAULT true,
    id  bytea   NOT NULL,
    key bytea   NOT NULL,
    CONSTRAINT acme_boot_pk PRIMARY KEY (one),
    CONSTRAINT acme_boot_only_one CHECK (one)
);
COMMENT ON TABLE acme_boot IS 'The key that seals nonces. A crash or failover empties it with acme_nonce, so that no nonce of before is taken.';

CREATE UNLOGGED TABLE acme_nonce (
    block   bigint      NOT NULL,
    made_at timestamptz NOT NULL,
    spent   bit varying NOT NULL,
    again   bit varying NOT NULL,
    CONSTRAINT acme_nonce_pk PRIMARY KEY (block)
) WITH (fillfactor = 50);
COMMENT ON TABLE acme_nonce IS 'Which nonces of a block were spent, a bit each, and those of the last group that were already.';

INSERT INTO epoch_table (parent, kind, reference)
VALUES ('acme_order', 32, NULL),
       ('acme_finalization', 32, NULL),
       ('acme_failure', 32, NULL),
       ('acme_authorization', 33, NULL),
       ('acme_validation', 33, NULL);
