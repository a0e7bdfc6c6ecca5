-- Deleting tenants. What is deleted keeps its rows and their numbers for ever, so that what refers to them means what it did; the
-- names are set free by giving the rows others. What was sealed under the old names is proved under them (born).

-- +goose Up

ALTER TABLE scope
    ADD COLUMN deleting_at timestamptz NULL,
    ADD COLUMN deleted_at timestamptz NULL,
    ADD COLUMN born text NULL,
    ADD CONSTRAINT scope_is_stopped_while_it_is_deleted CHECK (deleting_at IS NULL OR suspended_at IS NOT NULL OR parent IS NOT NULL),
    ADD CONSTRAINT scope_is_deleted_in_order CHECK (deleted_at IS NULL OR (deleting_at IS NOT NULL AND born IS NOT NULL));
COMMENT ON COLUMN scope.deleting_at IS 'Since when it is being deleted; nothing is issued in it any more.';
COMMENT ON COLUMN scope.born IS 'Of a deleted one: the path it had, under which its facts are sealed.';
CREATE INDEX scope_deleting ON scope (path) WHERE deleting_at IS NOT NULL AND deleted_at IS NULL;
CREATE INDEX scope_was ON scope (born, deleted_at) WHERE born IS NOT NULL;
CREATE INDEX acme_account_active_by_scope ON acme_account (scope) WHERE deactivated_at IS NULL;

-- Rows of a tenant that gets another name follow it.
ALTER TABLE credential_target
    DROP CONSTRAINT credential_target_scope_exists,
    ADD CONSTRAINT credential_target_scope_exists FOREIGN KEY (scope, root) REFERENCES scope (id, root) ON UPDATE CASCADE DEFERRABLE;
ALTER TABLE credential_binding
    DROP CONSTRAINT credential_binding_scope_exists,
    DROP CONSTRAINT credential_binding_target_of_its_root,
    ADD CONSTRAINT credential_binding_scope_exists FOREIGN KEY (scope, root) REFERENCES scope (id, root) ON UPDATE CASCADE DEFERRABLE,
    ADD CONSTRAINT credential_binding_target_of_its_root FOREIGN KEY (target, root) REFERENCES credential_target (id, root) ON UPDATE CASCADE DEFERRABLE;
ALTER TABLE incident
    DROP CONSTRAINT incident_scope_exists,
    ADD CONSTRAINT incident_scope_exists FOREIGN KEY (scope) REFERENCES scope (path) ON UPDATE CASCADE DEFERRABLE;
ALTER TABLE scope
    DROP CONSTRAINT scope_parent_exists,
    ADD CONSTRAINT scope_parent_exists FOREIGN KEY (parent) REFERENCES scope (path) DEFERRABLE;

CREATE TABLE deletion (
    id           bigint      GENERATED ALWAYS AS IDENTITY,
    scope        integer     NOT NULL,
    tenant       text        NOT NULL,
    asked_at     timestamptz NOT NULL,
    asked_by     text        NOT NULL,
    why          text        NOT NULL,
    scopes       integer     NOT NULL DEFAULT 0,
    certificates integer     NOT NULL DEFAULT 0,
    accounts     integer     NOT NULL DEFAULT 0,
    keys         integer     NOT NULL DEFAULT 0,
    roles        integer     NOT NULL DEFAULT 0,
    methods      integer     NOT NULL DEFAULT 0,
    targets      integer     NOT NULL DEFAULT 0,
    finished_at  timestamptz NULL,
    CONSTRAINT deletion_pk PRIMARY KEY (id),
    CONSTRAINT deletion_once UNIQUE (scope),
    CONSTRAINT deletion_scope_exists FOREIGN KEY (scope) REFERENCES scope (id)
);
COMMENT ON TABLE deletion IS 'Tenants that are, or were, deleted, and how much of each was ended.';
