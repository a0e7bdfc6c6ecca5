-- The ledger's foundation: scopes, authorities and keys; what was intended, signed, revoked; facts; duties.
--
-- intent, outcome, origin and revocation are append-only and range-partitioned on an 18-octet identifier that begins
-- kind · site · second (internal/uid), so a look-up by identifier touches one partition and an epoch (one week) leaves by
-- dropping its partitions. A certificate is its intent's TBS bytes plus its outcome's signature; neither is stored twice.

-- +goose Up

CREATE TABLE duty (
    name       text        NOT NULL,
    holder     text        NOT NULL,
    term       bigint      NOT NULL,
    expires_at timestamptz NOT NULL,
    CONSTRAINT duty_pk PRIMARY KEY (name),
    CONSTRAINT duty_term_positive CHECK (term > 0)
);
COMMENT ON TABLE duty IS 'Who may do periodic work, until when by the database''s clock; term fences the former holder.';

CREATE TABLE scope (
    id          integer     GENERATED ALWAYS AS IDENTITY,
    path        text        NOT NULL,
    parent      text        NULL,
    tenant      text        NULL,
    project     text        NULL,
    environment text        NULL,
    dns         text[]      NULL,
    ip          text[]      NULL,
    spiffe      text[]      NULL,
    created_at  timestamptz NOT NULL,
    CONSTRAINT scope_pk PRIMARY KEY (id),
    CONSTRAINT scope_path_once UNIQUE (path),
    CONSTRAINT scope_parent_exists FOREIGN KEY (parent) REFERENCES scope (path),
    CONSTRAINT scope_environment_needs_project CHECK (environment IS NULL OR project IS NOT NULL),
    CONSTRAINT scope_project_needs_tenant CHECK (project IS NULL OR tenant IS NOT NULL),
    CONSTRAINT scope_path_is_its_parts CHECK (path = coalesce(tenant, 'platform') || coalesce('/' || project, '') || coalesce('/' || environment, '')),
    CONSTRAINT scope_parent_is_above CHECK (
        CASE
            WHEN environment IS NOT NULL THEN parent = tenant || '/' || project
            WHEN project IS NOT NULL THEN parent = tenant
            ELSE parent IS NULL
        END
    ),
    CONSTRAINT scope_platform_is_no_tenant CHECK (tenant <> 'platform')
);
COMMENT ON TABLE scope IS 'platform, tenants, projects, environments, and the names each may bear (NULL: the parents decide).';

CREATE TABLE operator (
    identity text        NOT NULL,
    added_at timestamptz NOT NULL,
    CONSTRAINT operator_pk PRIMARY KEY (identity),
    CONSTRAINT operator_is_of_the_platform CHECK (identity LIKE 'spiffe://%/platform/%')
);
COMMENT ON TABLE operator IS 'Identities that may act for the platform over every scope.';

CREATE TABLE kms_seal (
    one        boolean NOT NULL DEFAULT true,
    salt       bytea   NOT NULL,
    iterations integer NOT NULL,
    proof      bytea   NOT NULL,
    CONSTRAINT kms_seal_pk PRIMARY KEY (one),
    CONSTRAINT kms_seal_only_one CHECK (one)
);
COMMENT ON TABLE kms_seal IS 'How the key-encryption key comes from the passphrase, and a sealed value that proves it did.';

CREATE TABLE kms_key (
    name       text        NOT NULL,
    algorithm  text        NOT NULL,
    public     bytea       NOT NULL,
    sealed     bytea       NOT NULL,
    created_at timestamptz NOT NULL,
    CONSTRAINT kms_key_pk PRIMARY KEY (name)
);
COMMENT ON TABLE kms_key IS 'Software keys: public half, and the private half sealed under the key-encryption key.';

CREATE TABLE site_file (
    key         text        NOT NULL,
    value       bytea       NOT NULL,
    modified_at timestamptz NOT NULL,
    CONSTRAINT site_file_pk PRIMARY KEY (key)
);
COMMENT ON TABLE site_file IS 'The listeners'' own certificates and keys, sealed; shared by replicas.';

CREATE TABLE site_lock (
    key        text        NOT NULL,
    holder     text        NOT NULL,
    term       bigint      NOT NULL,
    expires_at timestamptz NOT NULL,
    CONSTRAINT site_lock_pk PRIMARY KEY (key)
);
COMMENT ON TABLE site_lock IS 'Which replica is renewing which of them.';

CREATE TABLE authority (
    id          integer     GENERATED ALWAYS AS IDENTITY,
    name        text        NOT NULL,
    purpose     text        NOT NULL,
    site        smallint    NOT NULL,
    parent      integer     NULL,
    certificate bytea       NOT NULL,
    key         text        NOT NULL,
    created_at  timestamptz NOT NULL,
    CONSTRAINT authority_pk PRIMARY KEY (id),
    CONSTRAINT authority_name_once UNIQUE (name),
    CONSTRAINT authority_name_is_a_label CHECK (name ~ '^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$'),
    CONSTRAINT authority_parent_exists FOREIGN KEY (parent) REFERENCES authority (id),
    CONSTRAINT authority_key_exists FOREIGN KEY (key) REFERENCES kms_key (name),
    CONSTRAINT authority_key_once UNIQUE (key),
    CONSTRAINT authority_root_has_no_parent CHECK ((purpose = 'root') = (parent IS NULL))
);
COMMENT ON TABLE authority IS 'CA certificates, each with its key, of one site and one purpose.';

CREATE TABLE intent (
    serial     bytea       NOT NULL,
    not_after  timestamptz NOT NULL,
    authority  integer     NOT NULL,
    scope      integer     NOT NULL,
    profile    text        NOT NULL,
    tbs        bytea       NOT NULL,
    origin     bytea       NULL,
    CONSTRAINT intent_pk PRIMARY KEY (serial),
    CONSTRAINT intent_serial_is_18_octets CHECK (octet_length(serial) = 18)
) PARTITION BY RANGE (serial);
CREATE INDEX intent_by_expiry ON intent (scope, not_after, serial);
COMMENT ON TABLE intent IS 'What is about to be signed: written, and durable, before any key is used.';

CREATE TABLE outcome (
    serial    bytea       NOT NULL,
    at        timestamptz NOT NULL,
    signature bytea       NULL,
    CONSTRAINT outcome_pk PRIMARY KEY (serial)
) PARTITION BY RANGE (serial);
COMMENT ON TABLE outcome IS 'How an intent ended: signed, or (signature NULL) abandoned. The primary key decides which, once.';

CREATE TABLE settled (
    site   smallint NOT NULL,
    serial bytea    NOT NULL,
    CONSTRAINT settled_pk PRIMARY KEY (site)
);
COMMENT ON TABLE settled IS 'Every intent of a site below serial has its outcome: the recover duty reads from there.';

CREATE TABLE origin (
    origin  bytea    NOT NULL,
    attempt smallint NOT NULL,
    serial  bytea    NOT NULL,
    digest  bytea    NULL,
    CONSTRAINT origin_pk PRIMARY KEY (origin, attempt)
) PARTITION BY RANGE (origin);
COMMENT ON TABLE origin IS 'Why a certificate exists: one certificate per origin; a further attempt only after the last was abandoned.';
CREATE TABLE origin_request PARTITION OF origin FOR VALUES FROM ('\x40') TO ('\x41');
COMMENT ON TABLE origin_request IS 'Origins made from an Idempotency-Key: kept a day and then deleted.';

CREATE TABLE revocation (
    serial     bytea       NOT NULL,
    revoked_at timestamptz NOT NULL,
    xid        xid8        NOT NULL DEFAULT pg_current_xact_id(),
    authority  integer     NOT NULL,
    scope      integer     NOT NULL,
    reason     smallint    NOT NULL,
    CONSTRAINT revocation_pk PRIMARY KEY (serial),
    CONSTRAINT revocation_reason_is_final CHECK (reason IN (0, 1, 2, 3, 4, 5, 9, 10))
) PARTITION BY RANGE (serial);
CREATE INDEX revocation_by_scope ON revocation (scope, serial);
CREATE INDEX revocation_by_transaction ON revocation (authority, xid);
COMMENT ON TABLE revocation IS 'Serials that are no longer good: revoked certificates and abandoned intents.';

CREATE TABLE blocked_key (
    key    bytea       NOT NULL,
    serial bytea       NOT NULL,
    at     timestamptz NOT NULL,
    CONSTRAINT blocked_key_pk PRIMARY KEY (key),
    CONSTRAINT blocked_key_is_sha256 CHECK (octet_length(key) = 32)
);
COMMENT ON TABLE blocked_key IS 'Keys (SHA-256 of SPKI) once revoked as compromised: never certified again.';

CREATE TABLE crl (
    authority   integer     NOT NULL,
    epoch       integer     NOT NULL,
    number      bigint      NOT NULL,
    this_update timestamptz NOT NULL,
    next_update timestamptz NOT NULL,
    seen        xid8        NOT NULL,
    der         bytea       NOT NULL,
    CONSTRAINT crl_pk PRIMARY KEY (authority, epoch),
    CONSTRAINT crl_authority_exists FOREIGN KEY (authority) REFERENCES authority (id),
    CONSTRAINT crl_number_positive CHECK (number > 0),
    CONSTRAINT crl_is_not_over_before_it_begins CHECK (next_update > this_update)
);
ALTER TABLE crl ALTER COLUMN der SET STORAGE EXTERNAL;
COMMENT ON TABLE crl IS 'The newest list of each authority and epoch. seen: transactions below it are in the list.';

CREATE TABLE enrolment (
    token      bytea       NOT NULL,
    hash       bytea       NOT NULL,
    scope      integer     NOT NULL,
    profile    text        NOT NULL,
    workload   text        NOT NULL,
    names      text[]      NOT NULL,
    made_at    timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    CONSTRAINT enrolment_pk PRIMARY KEY (token),
    CONSTRAINT enrolment_scope_exists FOREIGN KEY (scope) REFERENCES scope (id),
    CONSTRAINT enrolment_hash_is_sha256 CHECK (octet_length(hash) = 32)
) PARTITION BY RANGE (token);
COMMENT ON TABLE enrolment IS 'One-time enrolment tokens, by their hash. Use is single because an origin has one certificate.';

CREATE TABLE fact (
    id      bigint      GENERATED ALWAYS AS IDENTITY,
    xid     xid8        NOT NULL DEFAULT pg_current_xact_id(),
    at      timestamptz NOT NULL,
    scope   integer     NULL,
    allowed boolean     NOT NULL DEFAULT true,
    what    text        NOT NULL,
    actor   text        NOT NULL,
    act     text        NULL,
    serial  bytea       NULL,
    subject text        NULL,
    why     text        NULL,
    CONSTRAINT fact_pk PRIMARY KEY (xid, id, at)
) PARTITION BY RANGE (at);
COMMENT ON TABLE fact IS 'Who did what to what, allowed or not, and why; in the transaction of what it records.';

CREATE TABLE epoch_table (
    parent    text     NOT NULL,
    kind      smallint NULL,
    reference text     NULL,
    CONSTRAINT epoch_table_once UNIQUE NULLS NOT DISTINCT (parent, kind)
);
COMMENT ON TABLE epoch_table IS 'Which tables have a partition an epoch: by identifiers of a kind, or (kind NULL) by time.
reference: the parent whose partition of the same epoch the serial must stand in.';
INSERT INTO epoch_table (parent, kind, reference)
VALUES ('intent', 16, NULL),
       ('outcome', 16, 'intent'),
       ('revocation', 16, 'intent'),
       ('origin', 16, NULL),
       ('origin', 32, NULL),
       ('origin', 48, NULL),
       ('enrolment', 48, NULL),
       ('fact', NULL, NULL);

CREATE FUNCTION epoch_of(identifier bytea) RETURNS integer
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN ((get_byte(identifier, 2)::bigint << 24) + (get_byte(identifier, 3) << 16) + (get_byte(identifier, 4) << 8) + get_byte(identifier, 5)) / 604800;
COMMENT ON FUNCTION epoch_of IS 'The epoch in which an 18-octet identifier was made.';

-- +goose StatementBegin
CREATE FUNCTION make_epoch(for_site integer, for_epoch integer) RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    length CONSTANT bigint := 604800;
    entry  record;
    child  text;
    lower  text;
    upper  text;
    made   integer := 0;
BEGIN
    FOR entry IN
        SELECT parent, kind::integer AS kind, reference
        FROM   epoch_table
        ORDER  BY reference IS NOT NULL, parent, kind
    LOOP
        IF entry.kind IS NULL THEN
            child := format('%s_e%s', entry.parent, for_epoch);
            lower := to_timestamp(for_epoch * length)::text;
            upper := to_timestamp((for_epoch + 1) * length)::text;
        ELSE
            child := format('%s_%s_s%s_e%s', entry.parent, to_hex(entry.kind), for_site, for_epoch);
            lower := '\x' || lpad(to_hex(entry.kind), 2, '0') || lpad(to_hex(for_site), 2, '0') || lpad(to_hex(for_epoch * length), 8, '0');
            upper := '\x' || lpad(to_hex(entry.kind), 2, '0') || lpad(to_hex(for_site), 2, '0') || lpad(to_hex((for_epoch + 1) * length), 8, '0');
        END IF;
        CONTINUE WHEN to_regclass(child) IS NOT NULL;
        -- Made apart and then attached: writers of the parent are not kept waiting, nor can they deadlock with this.
        EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING ALL EXCLUDING IDENTITY)', child, entry.parent);
        IF entry.reference IS NOT NULL THEN
            EXECUTE format('ALTER TABLE %I ADD CONSTRAINT %I FOREIGN KEY (serial) REFERENCES %I (serial)',
                child, entry.parent || '_needs_' || entry.reference,
                format('%s_%s_s%s_e%s', entry.reference, to_hex(entry.kind), for_site, for_epoch));
        END IF;
        EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', entry.parent, child, lower, upper);
        made := made + 1;
    END LOOP;
    RETURN made;
END
$$;
-- +goose StatementEnd
COMMENT ON FUNCTION make_epoch IS 'Makes the partitions of one epoch where they are missing; returns how many. Safe to repeat.';
