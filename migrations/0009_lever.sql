-- The lever: what moves certificates' renewal, and what ends many of them at once.
--
-- An incident chooses certificates by what their intents say, up to a serial that is settled when it is made, so it is one
-- row however many it touches. Renewal windows are computed from these rows; so is the status of certificates that an
-- incident is ending, from the moment it is recorded. A suspension of a scope and the retirement of an authority make
-- incidents too. An authority's state is computed from when it was activated, superseded and retired.

-- +goose Up

CREATE TABLE replacement (
    serial    bytea NOT NULL,
    successor bytea NOT NULL,
    CONSTRAINT replacement_pk PRIMARY KEY (serial, successor)
) PARTITION BY RANGE (serial);
COMMENT ON TABLE replacement IS 'Which certificate came in place of which, as its requester said (RFC 9773 §5) or by renewal; written with the new one''s signature.';
INSERT INTO epoch_table (parent, kind, reference)
VALUES ('replacement', 16, NULL);

SELECT make_epoch(substring(c.relname FROM '_s(\d+)_e')::integer, substring(c.relname FROM '_e(\d+)$')::integer)
FROM   pg_inherits h
JOIN   pg_class c ON c.oid = h.inhrelid
WHERE  h.inhparent = 'intent'::regclass;

ALTER TABLE scope
    ADD COLUMN suspended_at timestamptz NULL,
    ADD CONSTRAINT scope_platform_is_never_suspended CHECK (suspended_at IS NULL OR tenant IS NOT NULL);
CREATE INDEX scope_suspended ON scope (path) WHERE suspended_at IS NOT NULL;
COMMENT ON COLUMN scope.suspended_at IS 'Since when nothing is issued in it and below it; NULL while it may.';

ALTER TABLE authority
    ADD COLUMN activated_at timestamptz NULL,
    ADD COLUMN retiring_at timestamptz NULL,
    ADD COLUMN retired_at timestamptz NULL,
    ADD CONSTRAINT authority_retires_in_order CHECK (retired_at IS NULL OR activated_at IS NULL OR retiring_at IS NOT NULL);
UPDATE authority
SET    activated_at = created_at;
CREATE UNIQUE INDEX authority_active_once ON authority (site, purpose) WHERE activated_at IS NOT NULL AND retiring_at IS NULL;
COMMENT ON COLUMN authority.activated_at IS 'Since when it signs; NULL while it is prepared: published, and signing nothing.';
COMMENT ON COLUMN authority.retiring_at IS 'Since when another signs in its place and what it signed is being renewed.';
COMMENT ON COLUMN authority.retired_at IS 'Since when nothing that it signed is valid, or, never activated, it was given up.';

CREATE TABLE incident (
    id          bytea       NOT NULL,
    cause       text        NOT NULL,
    why         text        NOT NULL,
    explanation text        NULL,
    made_at     timestamptz NOT NULL,
    actor       text        NOT NULL,
    authority   integer     NULL,
    profile     text        NULL,
    scope       text        NULL,
    name        text        NULL,
    name_mark   bigint      NULL,
    key         bytea       NULL,
    key_mark    bigint      NULL,
    listed      boolean     NOT NULL,
    since       bytea       NOT NULL,
    upto        bytea       NOT NULL,
    spread      interval    NULL,
    deadline    timestamptz NULL,
    reason      smallint    NULL,
    everything  boolean     NOT NULL,
    ends_at     timestamptz NOT NULL,
    ended_at    timestamptz NULL,
    revoking_at timestamptz NULL,
    finished_at timestamptz NULL,
    cursor      bytea       NOT NULL DEFAULT '\x',
    passes      smallint    NOT NULL DEFAULT 0,
    revoked     integer     NOT NULL DEFAULT 0,
    CONSTRAINT incident_pk PRIMARY KEY (id),
    CONSTRAINT incident_cause_is_known CHECK (cause IN ('incident', 'revocation', 'retirement')),
    CONSTRAINT incident_name_is_marked_or_listed CHECK ((name IS NOT NULL) = (name_mark IS NOT NULL OR listed)),
    CONSTRAINT incident_key_is_marked CHECK ((key IS NULL) = (key_mark IS NULL)),
    CONSTRAINT incident_range_is_not_empty CHECK (since < upto),
    CONSTRAINT incident_authority_exists FOREIGN KEY (authority) REFERENCES authority (id),
    CONSTRAINT incident_scope_exists FOREIGN KEY (scope) REFERENCES scope (path),
    CONSTRAINT incident_key_is_sha256 CHECK (octet_length(key) = 32),
    CONSTRAINT incident_does_something CHECK (spread IS NOT NULL OR deadline IS NOT NULL),
    CONSTRAINT incident_deadline_has_a_reason CHECK ((deadline IS NULL) = (reason IS NULL)),
    CONSTRAINT incident_reason_is_final CHECK (reason IN (0, 1, 2, 3, 4, 5, 9, 10)),
    CONSTRAINT incident_revokes_after_its_deadline CHECK (revoking_at IS NULL OR deadline IS NOT NULL),
    CONSTRAINT incident_finishes_what_it_began CHECK (finished_at IS NULL OR revoking_at IS NOT NULL)
);
CREATE INDEX incident_in_force ON incident (ends_at) WHERE ended_at IS NULL;
CREATE INDEX incident_ending ON incident (revoking_at) WHERE everything AND revoking_at IS NOT NULL AND finished_at IS NULL;
CREATE INDEX incident_due ON incident (deadline) WHERE deadline IS NOT NULL AND finished_at IS NULL AND ended_at IS NULL;
COMMENT ON TABLE incident IS 'Certificates chosen by their intents (since <= serial < upto), whose windows move over spread from made_at on, and of
which those not replaced (everything: all) are revoked at the deadline. While it revokes, cursor and passes say how far it is.';

CREATE TABLE incident_certificate (
    incident bytea NOT NULL,
    serial   bytea NOT NULL,
    CONSTRAINT incident_certificate_pk PRIMARY KEY (incident, serial),
    CONSTRAINT incident_certificate_of_an_incident FOREIGN KEY (incident) REFERENCES incident (id)
);
COMMENT ON TABLE incident_certificate IS 'What an incident touches that chose by the end of a name (listed): no index of the ledger knows that.';
