-- ACME beyond RFC 8555's own objects: keys of external accounts (§7.3.4), what a scope's directory offers, which terms an
-- account agreed to (§7.3.3), and which order replaces which certificate (RFC 9773 §5).

-- +goose Up

CREATE TABLE acme_setting (
    scope            integer     NOT NULL,
    binding_required boolean     NULL,
    profiles         text[]      NULL,
    changed_at       timestamptz NOT NULL,
    CONSTRAINT acme_setting_pk PRIMARY KEY (scope),
    CONSTRAINT acme_setting_scope_exists FOREIGN KEY (scope) REFERENCES scope (id),
    CONSTRAINT acme_setting_profiles_not_empty CHECK (cardinality(profiles) > 0)
);
COMMENT ON TABLE acme_setting IS 'What a scope''s ACME directory asks and offers. NULL: as the scope above says.
profiles: those that may be ordered; the first is what an order gets that names none.';

CREATE TABLE acme_binding (
    id         bytea       NOT NULL,
    scope      integer     NOT NULL,
    label      text        NOT NULL,
    sealed     bytea       NOT NULL,
    names      text[]      NULL,
    approved   text[]      NOT NULL,
    uses       integer     NULL,
    used       integer     NOT NULL DEFAULT 0,
    made_at    timestamptz NOT NULL,
    expires_at timestamptz NULL,
    revoked_at timestamptz NULL,
    CONSTRAINT acme_binding_pk PRIMARY KEY (id),
    CONSTRAINT acme_binding_scope_exists FOREIGN KEY (scope) REFERENCES scope (id),
    CONSTRAINT acme_binding_not_overused CHECK (used <= uses),
    CONSTRAINT acme_binding_good_for_something CHECK (uses > 0)
);
CREATE INDEX acme_binding_by_scope ON acme_binding (scope, id);
COMMENT ON TABLE acme_binding IS 'Keys with which accounts are bound to somebody known elsewhere. sealed: the MAC key, under the key-encryption key.
names: what its accounts may order (NULL: all that the scope may have). approved: what they need not prove.
uses: how many accounts it may bind (NULL: any number).';

ALTER TABLE acme_account
    ADD COLUMN binding bytea NULL,
    ADD COLUMN terms text NULL,
    ADD CONSTRAINT acme_account_binding_exists FOREIGN KEY (binding) REFERENCES acme_binding (id);
COMMENT ON COLUMN acme_account.binding IS 'The external account key it was made with.';
COMMENT ON COLUMN acme_account.terms IS 'The URL of the terms of service that it agreed to last.';

ALTER TABLE acme_order ADD COLUMN replaces text NULL;
COMMENT ON COLUMN acme_order.replaces IS 'Which certificate this order''s is to replace, as its holder named it (RFC 9773 §4.1).';

CREATE TABLE acme_replacement (
    serial   bytea NOT NULL,
    order_id bytea NOT NULL,
    CONSTRAINT acme_replacement_pk PRIMARY KEY (serial)
) PARTITION BY RANGE (serial);
COMMENT ON TABLE acme_replacement IS 'The one order that may replace a certificate; another only once that one is invalid.';

INSERT INTO epoch_table (parent, kind, reference)
VALUES ('acme_replacement', 16, NULL);

-- Certificates of epochs gone by may be replaced too.
SELECT make_epoch(substring(c.relname FROM '_s(\d+)_e')::integer, substring(c.relname FROM '_e(\d+)$')::integer)
FROM   pg_inherits h
JOIN   pg_class c ON c.oid = h.inhrelid
WHERE  h.inhparent = 'intent'::regclass;
