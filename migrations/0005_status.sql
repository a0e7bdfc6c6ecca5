-- Publishing status: lists in parts and pieces, deltas, and receipts that say which answer first carried a revocation.
--
-- A list of a hundred thousand is megabytes, so its octets leave crl and come in pieces: no statement carries a whole list,
-- and reading what stands costs no more than its head. seen becomes a snapshot: whatever it sees is in the list, so a
-- transaction that stays open no longer makes lists due that lack nothing.

-- +goose Up

ALTER TABLE revocation ADD COLUMN at timestamptz NULL;
COMMENT ON COLUMN revocation.at IS 'When it was asked for, to the microsecond; revoked_at is what lists and answers say. NULL: before 0005.';

CREATE TABLE crl_split (
    authority integer     NOT NULL,
    epoch     integer     NOT NULL,
    parts     smallint    NOT NULL,
    at        timestamptz NOT NULL,
    CONSTRAINT crl_split_pk PRIMARY KEY (authority, epoch),
    CONSTRAINT crl_split_authority_exists FOREIGN KEY (authority) REFERENCES authority (id),
    CONSTRAINT crl_split_parts_divide_an_octet CHECK (parts IN (1, 2, 4, 8, 16, 32, 64, 128, 256))
);
COMMENT ON TABLE crl_split IS 'How many lists share an epoch''s certificates of an authority, by the serial''s last octet. Decided once, before any names one.';
INSERT INTO crl_split (authority, epoch, parts, at)
SELECT authority, epoch, 1, this_update
FROM   crl
WHERE  epoch > 0;

CREATE TABLE crl_piece (
    authority integer  NOT NULL,
    epoch     integer  NOT NULL,
    part      smallint NOT NULL,
    delta     boolean  NOT NULL,
    number    bigint   NOT NULL,
    piece     integer  NOT NULL,
    der       bytea    NOT NULL,
    CONSTRAINT crl_piece_pk PRIMARY KEY (authority, epoch, part, delta, number, piece)
);
ALTER TABLE crl_piece ALTER COLUMN der SET STORAGE EXTERNAL;
COMMENT ON TABLE crl_piece IS 'The octets of the lists that stand, complete and delta, in order.';
INSERT INTO crl_piece (authority, epoch, part, delta, number, piece, der)
SELECT authority, epoch, 0, false, number, 0, der
FROM   crl;

-- A list from before has no delta: its base is the next one, which whoever signs next makes.
ALTER TABLE crl
    ADD COLUMN part       smallint    NOT NULL DEFAULT 0,
    ADD COLUMN entries    integer     NOT NULL DEFAULT 0,
    ADD COLUMN size       integer     NOT NULL DEFAULT 0,
    ADD COLUMN delta_size integer     NOT NULL DEFAULT 0,
    ADD COLUMN base       bigint      NOT NULL DEFAULT 0,
    ADD COLUMN base_at    timestamptz NOT NULL DEFAULT to_timestamp(0),
    ADD COLUMN snapshot   pg_snapshot NULL;
UPDATE crl
SET    size = octet_length(der), snapshot = (seen::text || ':' || seen::text || ':')::pg_snapshot;
ALTER TABLE crl
    DROP COLUMN der,
    DROP COLUMN seen,
    ALTER COLUMN snapshot SET NOT NULL,
    ALTER COLUMN part DROP DEFAULT,
    ALTER COLUMN entries DROP DEFAULT,
    ALTER COLUMN size DROP DEFAULT,
    ALTER COLUMN delta_size DROP DEFAULT,
    ALTER COLUMN base DROP DEFAULT,
    ALTER COLUMN base_at DROP DEFAULT,
    DROP CONSTRAINT crl_pk,
    ADD CONSTRAINT crl_pk PRIMARY KEY (authority, epoch, part),
    ADD CONSTRAINT crl_part_is_an_octet CHECK (part BETWEEN 0 AND 255),
    ADD CONSTRAINT crl_base_is_no_later CHECK (base <= number);
ALTER TABLE crl RENAME COLUMN snapshot TO seen;
COMMENT ON TABLE crl IS 'The newest list of each authority, epoch and part. seen: what this snapshot sees is in the list. base: of its delta.';

CREATE TABLE crl_publication (
    authority integer     NOT NULL,
    epoch     integer     NOT NULL,
    part      smallint    NOT NULL,
    number    bigint      NOT NULL,
    at        timestamptz NOT NULL,
    site      smallint    NOT NULL,
    seen      pg_snapshot NOT NULL,
    entries   integer     NOT NULL,
    CONSTRAINT crl_publication_pk PRIMARY KEY (authority, epoch, part, at, number)
) PARTITION BY RANGE (at);
COMMENT ON TABLE crl_publication IS 'Every list that was published, and what it saw: the first that sees a revocation is its receipt.';

CREATE TABLE ocsp_receipt (
    serial bytea       NOT NULL,
    site   smallint    NOT NULL,
    at     timestamptz NOT NULL,
    answer bytea       NOT NULL,
    CONSTRAINT ocsp_receipt_pk PRIMARY KEY (serial, site),
    CONSTRAINT ocsp_receipt_answer_is_sha256 CHECK (octet_length(answer) = 32)
) PARTITION BY RANGE (serial);
COMMENT ON TABLE ocsp_receipt IS 'The first OCSP answer, by its SHA-256, that told a site''s clients of a revocation.';

CREATE TABLE check_report (
    one      boolean     NOT NULL DEFAULT true,
    at       timestamptz NOT NULL,
    findings jsonb       NOT NULL,
    CONSTRAINT check_report_pk PRIMARY KEY (one),
    CONSTRAINT check_report_only_one CHECK (one)
);
COMMENT ON TABLE check_report IS 'What the checker found when it last looked: where what is published differs from the ledger.';

INSERT INTO epoch_table (parent, kind, reference)
VALUES ('crl_publication', NULL, NULL),
       ('ocsp_receipt', 16, NULL);

-- Epochs that are there get the new partitions; make_epoch leaves alone what is.
-- +goose StatementBegin
DO $$
DECLARE
    leaf text;
BEGIN
    FOR leaf IN
        SELECT inhrelid::regclass::text
        FROM   pg_inherits
        WHERE  inhparent = 'revocation'::regclass
    LOOP
        PERFORM make_epoch(substring(leaf FROM '_s(\d+)_e')::integer, substring(leaf FROM '_e(\d+)$')::integer);
    END LOOP;
END
$$;
-- +goose StatementEnd
