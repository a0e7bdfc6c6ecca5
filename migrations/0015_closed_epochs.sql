-- What is known of a week once nothing is written to it any more: until when its certificates live, and, by a Bloom filter of
-- their marks, which names and keys it cannot hold. So a look-up by name or key asks the weeks that may hold it, not all.
--
-- A write that comes to such a week nevertheless, by a clock that is far behind, takes this away in its own transaction.

-- +goose Up

CREATE TABLE closed_epoch (
    site    smallint    NOT NULL,
    epoch   integer     NOT NULL,
    level   smallint    NOT NULL,
    marks   bigint      NOT NULL,
    ends    jsonb       NOT NULL,
    made_at timestamptz NOT NULL,
    CONSTRAINT closed_epoch_pk PRIMARY KEY (site, epoch),
    CONSTRAINT closed_epoch_level_is_of_32_bits CHECK (level BETWEEN 0 AND 31)
);
COMMENT ON TABLE closed_epoch IS 'Weeks whose certificates are all there. ends: when the last of each profile ends; level: how many of a mark''s first bits number its block.';

CREATE TABLE closed_epoch_block (
    site  smallint NOT NULL,
    epoch integer  NOT NULL,
    block integer  NOT NULL,
    bits  bytea    NOT NULL,
    CONSTRAINT closed_epoch_block_pk PRIMARY KEY (site, epoch, block),
    CONSTRAINT closed_epoch_block_is_of_one FOREIGN KEY (site, epoch) REFERENCES closed_epoch (site, epoch) ON DELETE CASCADE
);
COMMENT ON TABLE closed_epoch_block IS 'A Bloom filter of the marks that begin with the block''s number (ca/ledger).';

-- Whoever may write an intent may cause this, and nothing else, to be deleted.
-- +goose StatementBegin
CREATE FUNCTION closed_epoch_changed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    EXECUTE format('DELETE FROM %I.closed_epoch WHERE site = $1 AND epoch = $2', TG_TABLE_SCHEMA)
    USING   TG_ARGV[0]::smallint, TG_ARGV[1]::integer;
    RETURN NULL;
END
$$;
-- +goose StatementEnd
COMMENT ON FUNCTION closed_epoch_changed IS 'Takes away what is known of a week because a certificate was written to it.';
