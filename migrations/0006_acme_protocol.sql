-- ACME's protocol whole: lists of an account's orders, authorizations that are used again, given up or cover subdomains
-- (RFC 9444), orders with dates of their own, and the end of what has long been finished.
--
-- An authorization is found again by proof, eight octets of a hash of its account and name: the index costs one number a
-- row. deactivated_at is the one column that is set later, once, like an account's.

-- +goose Up

ALTER TABLE acme_order
    ADD COLUMN not_before timestamptz NULL,
    ADD COLUMN not_after  timestamptz NULL;
CREATE INDEX acme_order_by_account ON acme_order (account, substring(id FROM 1 FOR 6));
COMMENT ON INDEX acme_order_by_account IS 'By account and second: a busy account''s orders of one second share an entry, and are few to sort.';

ALTER TABLE acme_authorization
    ADD COLUMN proof          bigint      NULL,
    ADD COLUMN subdomains     boolean     NULL,
    ADD COLUMN deactivated_at timestamptz NULL;
CREATE INDEX acme_authorization_by_proof ON acme_authorization (proof);

COMMENT ON COLUMN acme_authorization.proof IS 'Eight octets of a hash of account, name and subdomains, by which it is found again (acme.Wanted).';
COMMENT ON COLUMN acme_authorization.subdomains IS 'It covers the names below its own too (RFC 9444).';
COMMENT ON COLUMN acme_authorization.deactivated_at IS 'When its account gave it up (RFC 8555 §7.5.2).';

-- +goose StatementBegin
CREATE FUNCTION drop_acme_epochs(last_epoch integer) RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    leaf    record;
    dropped integer := 0;
BEGIN
    FOR leaf IN
        SELECT i.inhrelid::regclass AS name
        FROM   pg_inherits i
        JOIN   pg_class c ON c.oid = i.inhrelid
        WHERE  i.inhparent IN ('acme_order'::regclass, 'acme_authorization'::regclass, 'acme_validation'::regclass,
                               'acme_finalization'::regclass, 'acme_failure'::regclass)
        AND    substring(c.relname FROM '_e([0-9]+)$')::integer <= last_epoch
        ORDER  BY c.relname
    LOOP
        EXECUTE format('DROP TABLE %s', leaf.name);
        dropped := dropped + 1;
    END LOOP;
    RETURN dropped;
END
$$;
-- +goose StatementEnd
COMMENT ON FUNCTION drop_acme_epochs IS 'Drops the partitions of ACME''s own tables up to an epoch; returns how many. Safe to repeat.';
