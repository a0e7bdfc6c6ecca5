-- Looking certificates up by name, identity and key, in fewer octets than before.
--
-- A mark is the first eight octets of a SHA-256: of a name as the certificate has it (a SPIFFE identity is one), or of its
-- key. Marks find candidates; the certificate's own bytes decide. What lists has the order of its pages in its index, so that the
-- epochs' parts are merged as they are read. To-be-signed bytes are kept as what they have different from another of their kind.

-- +goose Up

CREATE TABLE frame (
    id        integer NOT NULL GENERATED ALWAYS AS IDENTITY,
    authority integer NOT NULL,
    profile   text    NOT NULL,
    body      bytea   NOT NULL,
    CONSTRAINT frame_pk PRIMARY KEY (id)
);
CREATE INDEX frame_by_kind ON frame (authority, profile, id);
COMMENT ON TABLE frame IS 'To-be-signed bytes that intents of the same authority and profile are stored against. Rows never change.';

ALTER TABLE intent
    ADD COLUMN key_mark bigint NULL,
    ADD COLUMN name_mark bigint NULL;
COMMENT ON COLUMN intent.tbs IS 'The to-be-signed bytes: DER (first octet 30), or 00, the number of a frame, and what differs from it (ca/tbs).';
COMMENT ON COLUMN intent.key_mark IS 'Mark of the key.';
COMMENT ON COLUMN intent.name_mark IS 'Mark of the first name; those of the others are in further_name.';
CREATE INDEX intent_by_key ON intent (key_mark);
CREATE INDEX intent_by_name ON intent (name_mark, not_after, serial);

CREATE TABLE further_name (
    serial    bytea       NOT NULL,
    mark      bigint      NOT NULL,
    not_after timestamptz NOT NULL
) PARTITION BY RANGE (serial);
CREATE INDEX further_name_by_mark ON further_name (mark, not_after, serial);
COMMENT ON TABLE further_name IS 'Marks of the names, beyond the first, of certificates that have several.';

-- Each list of a transaction's facts is sorted as it is read, so the index holds the transaction alone: those of a group
-- commit share one entry.
ALTER TABLE fact DROP CONSTRAINT fact_pk;
CREATE INDEX fact_by_transaction ON fact (xid);

-- Whether the intent is there is asked by the statements that write outcomes and revocations: a foreign key locks each
-- intent it looks at, and writes that to the log; and an epoch could not leave while it stands.
UPDATE epoch_table
SET    reference = NULL
WHERE  parent IN ('outcome', 'revocation');
INSERT INTO epoch_table (parent, kind, reference)
VALUES ('further_name', 16, NULL);

-- +goose StatementBegin
DO $$
DECLARE
    found record;
BEGIN
    FOR found IN
        SELECT conrelid::regclass AS child, conname
        FROM   pg_constraint
        WHERE  conname IN ('outcome_needs_intent', 'revocation_needs_intent')
    LOOP
        EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', found.child, found.conname);
    END LOOP;
    PERFORM make_epoch(substring(c.relname FROM '_s(\d+)_e')::integer, substring(c.relname FROM '_e(\d+)$')::integer)
    FROM    pg_inherits h JOIN pg_class c ON c.oid = h.inhrelid
    WHERE   h.inhparent = 'intent'::regclass;
END
$$;
-- +goose StatementEnd
