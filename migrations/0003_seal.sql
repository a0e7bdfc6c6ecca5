-- Proof: the facts in a Merkle tree, its checkpoints, and what is known when a database comes back older than it was.
--
-- A leaf is a fact, in the order (xid, id) of finished transactions, so a fact costs no write here: only its hash is kept, 32
-- octets in a tile of 256 (C2SP tlog-tiles). What a leaf's bytes are is in docs/ledger-proof.md.
--
-- Transaction identifiers order facts, and begin anew when a dump is restored into another cluster. ledger_arrive notices
-- that and shifts ours above all there ever were; who compares with pg_snapshot_xmin or pg_current_snapshot asks
-- ledger_horizon or ledger_snapshot instead.

-- +goose Up

CREATE FUNCTION ledger_horizon() RETURNS xid8
LANGUAGE sql STABLE
RETURN pg_snapshot_xmin(pg_current_snapshot());
COMMENT ON FUNCTION ledger_horizon IS 'Transactions below it have ended, as rows of the ledger number them.';

CREATE FUNCTION ledger_snapshot() RETURNS pg_snapshot
LANGUAGE sql STABLE
RETURN pg_current_snapshot();
COMMENT ON FUNCTION ledger_snapshot IS 'What is visible now, as rows of the ledger number transactions.';

CREATE TABLE seal_place (
    one   boolean NOT NULL DEFAULT true,
    place text    NOT NULL,
    shift numeric NOT NULL,
    CONSTRAINT seal_place_pk PRIMARY KEY (one),
    CONSTRAINT seal_place_only_one CHECK (one)
);
COMMENT ON TABLE seal_place IS 'Where the ledger lives (cluster, database, this table), and what is added to its transaction identifiers.';

CREATE TABLE seal_log (
    one    boolean NOT NULL DEFAULT true,
    origin text    NOT NULL,
    public bytea   NOT NULL,
    CONSTRAINT seal_log_pk PRIMARY KEY (one),
    CONSTRAINT seal_log_only_one CHECK (one),
    CONSTRAINT seal_log_public_is_ed25519 CHECK (octet_length(public) = 32)
);
COMMENT ON TABLE seal_log IS 'What checkpoints are known by: the name of the first era, and the public half of the key. Neither changes.';

CREATE TABLE seal_head (
    one        boolean     NOT NULL DEFAULT true,
    era        integer     NOT NULL,
    size       bigint      NOT NULL,
    xid        xid8        NOT NULL,
    id         bigint      NOT NULL,
    edge       bytea       NOT NULL,
    checkpoint text        NOT NULL,
    sealed_at  timestamptz NOT NULL,
    CONSTRAINT seal_head_pk PRIMARY KEY (one),
    CONSTRAINT seal_head_only_one CHECK (one),
    CONSTRAINT seal_head_size_is_natural CHECK (size >= 0),
    CONSTRAINT seal_head_era_positive CHECK (era > 0)
);
ALTER TABLE seal_head ALTER COLUMN edge SET STORAGE EXTERNAL;
COMMENT ON TABLE seal_head IS 'The tree: its size, the last fact in it, the hashes of its unfinished tiles from level 0 up, and its signed checkpoint.
era: which log it is; an accepted gap begins another.';

CREATE TABLE seal_published (
    one        boolean NOT NULL DEFAULT true,
    era        integer NOT NULL,
    size       bigint  NOT NULL,
    checkpoint text    NOT NULL,
    CONSTRAINT seal_published_pk PRIMARY KEY (one),
    CONSTRAINT seal_published_only_one CHECK (one)
);
COMMENT ON TABLE seal_published IS 'The newest checkpoint with the cosignatures that witnesses gave it.';

CREATE TABLE seal_tile (
    level  smallint    NOT NULL,
    n      bigint      NOT NULL,
    xid    xid8        NULL,
    id     bigint      NULL,
    at     timestamptz NULL,
    hashes bytea       NOT NULL,
    CONSTRAINT seal_tile_pk PRIMARY KEY (level, n),
    CONSTRAINT seal_tile_is_complete CHECK (octet_length(hashes) = 8192),
    CONSTRAINT seal_tile_of_leaves_says_where_it_ends CHECK ((level = 0) = (xid IS NOT NULL AND id IS NOT NULL AND at IS NOT NULL))
);
ALTER TABLE seal_tile ALTER COLUMN hashes SET STORAGE EXTERNAL;
CREATE INDEX seal_tile_by_position ON seal_tile (xid, id) WHERE level = 0;
CREATE INDEX seal_tile_by_time ON seal_tile (at) WHERE level = 0;
COMMENT ON TABLE seal_tile IS 'Complete tiles of the tree: 256 hashes each, of facts (level 0) or of tiles. xid, id, at: of the last fact in it.';

CREATE TABLE seal_fence (
    one   boolean     NOT NULL DEFAULT true,
    since timestamptz NOT NULL,
    why   text        NOT NULL,
    CONSTRAINT seal_fence_pk PRIMARY KEY (one),
    CONSTRAINT seal_fence_only_one CHECK (one)
);
COMMENT ON TABLE seal_fence IS 'While there is a row nothing is issued: the ledger has forgotten something, or may have.';

CREATE TABLE seal_gap (
    era         integer     NOT NULL,
    site        smallint    NOT NULL,
    begins      timestamptz NOT NULL,
    ends        timestamptz NOT NULL,
    accepted_at timestamptz NOT NULL,
    checkpoint  text        NOT NULL,
    why         text        NOT NULL,
    CONSTRAINT seal_gap_pk PRIMARY KEY (era),
    CONSTRAINT seal_gap_is_not_over_before_it_begins CHECK (ends >= begins)
);
COMMENT ON TABLE seal_gap IS 'Times of which the ledger knows nothing any more, accepted by an operator. checkpoint: of the log that ended; era: the one that began.';

CREATE TABLE seal_witnessed (
    origin     text        NOT NULL,
    size       bigint      NOT NULL,
    root       bytea       NOT NULL,
    checkpoint text        NOT NULL,
    at         timestamptz NOT NULL,
    CONSTRAINT seal_witnessed_pk PRIMARY KEY (origin),
    CONSTRAINT seal_witnessed_root_is_sha256 CHECK (octet_length(root) = 32),
    CONSTRAINT seal_witnessed_size_is_natural CHECK (size >= 0)
);
COMMENT ON TABLE seal_witnessed IS 'Others'' logs that we witness: the newest checkpoint of each that we cosigned. It only grows.';

-- +goose StatementBegin
CREATE FUNCTION ledger_arrive() RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    -- A dump makes other tables of ours, wherever it is restored; a copy of the files is another cluster's or the same.
    here  CONSTANT text := (SELECT system_identifier::text FROM pg_control_system()) || '.'
        || (SELECT oid::text FROM pg_database WHERE datname = current_database()) || '.' || 'seal_place'::regclass::oid::text;
    was   text;
    used  numeric;
    ahead numeric;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('segl ledger_arrive'));
    SELECT place INTO was FROM seal_place;
    IF was IS NULL THEN
        INSERT INTO seal_place (place, shift) VALUES (here, 0);
    END IF;
    IF coalesce(was, here) = here THEN
        RETURN false;
    END IF;
    SELECT max(x::text::numeric)
    INTO   used
    FROM   (
        (SELECT xid AS x FROM fact ORDER BY xid DESC LIMIT 1)
        UNION ALL
        (SELECT xid FROM revocation ORDER BY xid DESC LIMIT 1)
        UNION ALL
        SELECT pg_snapshot_xmax(seen) FROM crl
        UNION ALL
        SELECT xid FROM seal_head
    ) every;
    ahead := greatest(0, coalesce(used, 0) + 1 - pg_snapshot_xmin(pg_current_snapshot())::text::numeric);
    EXECUTE format('CREATE OR REPLACE FUNCTION ledger_horizon() RETURNS xid8 LANGUAGE sql STABLE '
        'RETURN (pg_snapshot_xmin(pg_current_snapshot())::text::numeric + %s)::text::xid8', ahead);
    EXECUTE format('CREATE OR REPLACE FUNCTION ledger_snapshot() RETURNS pg_snapshot LANGUAGE sql STABLE '
        'RETURN ((pg_snapshot_xmin(pg_current_snapshot())::text::numeric + %1$s)::text || '':'' '
        '|| (pg_snapshot_xmax(pg_current_snapshot())::text::numeric + %1$s)::text || '':'' '
        '|| coalesce((SELECT string_agg((x::text::numeric + %1$s)::text, '','' ORDER BY x) FROM pg_snapshot_xip(pg_current_snapshot()) x), ''''))::pg_snapshot', ahead);
    EXECUTE format('ALTER TABLE fact ALTER COLUMN xid SET DEFAULT (pg_current_xact_id()::text::numeric + %s)::text::xid8', ahead);
    EXECUTE format('ALTER TABLE revocation ALTER COLUMN xid SET DEFAULT (pg_current_xact_id()::text::numeric + %s)::text::xid8', ahead);
    UPDATE seal_place SET place = here, shift = ahead;
    RETURN true;
END
$$;
-- +goose StatementEnd
COMMENT ON FUNCTION ledger_arrive IS 'Reports whether the ledger was restored from a dump, or its files copied to another cluster, since it was last asked, and numbers new rows above all old ones.';
