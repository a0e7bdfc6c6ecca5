-- Keys whose private half somebody else keeps: an HSM, a cloud's KMS. The row says where; the name, and who has it, stays ours,
-- so that one name means one key for every replica whatever the provider thinks of names.

-- +goose Up

ALTER TABLE kms_key
    ALTER COLUMN sealed DROP NOT NULL,
    ADD COLUMN held_at text NULL,
    ADD CONSTRAINT kms_key_is_sealed_or_held CHECK ((sealed IS NULL) <> (held_at IS NULL));
COMMENT ON TABLE kms_key IS 'Keys: public half, and the private half sealed under the key-encryption key, or the place where a provider has it.';
