-- How an epoch leaves: written to a file of its own, and then dropped.

-- +goose Up

CREATE TABLE epoch_archive (
    site        smallint    NOT NULL,
    epoch       integer     NOT NULL,
    file        text        NOT NULL,
    sha256      bytea       NOT NULL,
    size        bigint      NOT NULL,
    rows        jsonb       NOT NULL,
    archived_at timestamptz NOT NULL,
    dropped_at  timestamptz NULL,
    restored_at timestamptz NULL,
    CONSTRAINT epoch_archive_pk PRIMARY KEY (site, epoch),
    CONSTRAINT epoch_archive_sha256 CHECK (octet_length(sha256) = 32),
    CONSTRAINT epoch_archive_restored_after_dropped CHECK (restored_at IS NULL OR dropped_at IS NOT NULL)
);
COMMENT ON TABLE epoch_archive IS 'Epochs that were written to a file: its name and SHA-256, and how many rows of each table are in it.
dropped_at: since when the file has them alone; restored_at: since when they are here again, and stay until somebody archives the epoch.';
