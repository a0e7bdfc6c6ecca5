-- Access tokens: the keys that sign them, and what may be used but once.
--
-- A token has no row: what it says is in it, signed, and that it was issued is a fact. What ends one is a fact as well, of a
-- certificate's revocation or of the token's own, and the partial index finds those among all others: it costs a fact that
-- ends nothing no write. When a key signs and how long it is published is computed from these rows.

-- +goose Up

CREATE TABLE token_key (
    id         text        NOT NULL,
    algorithm  text        NOT NULL,
    name       text        NOT NULL,
    made_at    timestamptz NOT NULL,
    signs_from timestamptz NOT NULL,
    revoked_at timestamptz NULL,
    CONSTRAINT token_key_pk PRIMARY KEY (id),
    CONSTRAINT token_key_exists FOREIGN KEY (name) REFERENCES kms_key (name),
    CONSTRAINT token_key_name_once UNIQUE (name),
    CONSTRAINT token_key_algorithm_is_known CHECK (algorithm IN ('ES256', 'EdDSA')),
    CONSTRAINT token_key_is_published_before_it_signs CHECK (signs_from >= made_at)
);
COMMENT ON TABLE token_key IS 'Keys that sign access tokens, by their thumbprints (RFC 7638). A revoked one is published no more.';

CREATE TABLE token_spent (
    mark  text        NOT NULL,
    until timestamptz NOT NULL,
    CONSTRAINT token_spent_pk PRIMARY KEY (mark),
    CONSTRAINT token_spent_mark_is_short CHECK (octet_length(mark) <= 64)
);
CREATE INDEX token_spent_by_end ON token_spent (until);
COMMENT ON TABLE token_spent IS 'Hashes of assertions and DPoP proofs that were used, until they would be refused for their age. Logged: none counts twice after a crash.';

CREATE INDEX fact_of_ends ON fact (xid, id)
WHERE allowed AND what IN ('certificate.revoke', 'token.revoke');
