-- Authorities beyond the founded ones: of a tenant's own, under a root whose key is nowhere here, and roots that another root
-- vouches for.

-- +goose Up

ALTER TABLE authority
    ADD COLUMN scope integer NULL,
    ALTER COLUMN key DROP NOT NULL,
    ADD CONSTRAINT authority_scope_exists FOREIGN KEY (scope) REFERENCES scope (id),
    ADD CONSTRAINT authority_key_elsewhere_is_a_roots CHECK (key IS NOT NULL OR purpose = 'root'),
    ADD CONSTRAINT authority_root_is_everybodys CHECK (purpose <> 'root' OR scope IS NULL);
DROP INDEX authority_active_once;
CREATE UNIQUE INDEX authority_active_once ON authority (site, purpose, coalesce(scope, 0)) WHERE activated_at IS NOT NULL AND retiring_at IS NULL;
COMMENT ON COLUMN authority.scope IS 'For whom it signs: that scope and below. NULL: for everybody who has none nearer.';
COMMENT ON COLUMN authority.key IS 'Its key in kms_key. NULL: the key of an offline root, which is nowhere here.';

CREATE TABLE authority_cross (
    authority   integer     NOT NULL,
    issuer      integer     NOT NULL,
    certificate bytea       NOT NULL,
    made_at     timestamptz NOT NULL,
    CONSTRAINT authority_cross_pk PRIMARY KEY (authority, issuer, certificate),
    CONSTRAINT authority_cross_authority_exists FOREIGN KEY (authority) REFERENCES authority (id),
    CONSTRAINT authority_cross_issuer_exists FOREIGN KEY (issuer) REFERENCES authority (id),
    CONSTRAINT authority_cross_of_another CHECK (authority <> issuer)
);
COMMENT ON TABLE authority_cross IS 'Certificates by which one root vouches for another: of the name and key of authority, signed by issuer.';

CREATE TABLE root_list (
    authority   integer     NOT NULL,
    number      bigint      NOT NULL,
    der         bytea       NOT NULL,
    this_update timestamptz NOT NULL,
    next_update timestamptz NOT NULL,
    imported_at timestamptz NOT NULL,
    CONSTRAINT root_list_pk PRIMARY KEY (authority, number),
    CONSTRAINT root_list_authority_exists FOREIGN KEY (authority) REFERENCES authority (id),
    CONSTRAINT root_list_ends CHECK (next_update > this_update)
);
COMMENT ON TABLE root_list IS 'Lists that offline roots signed in a ceremony. Numbers only grow; the greatest is served.';
