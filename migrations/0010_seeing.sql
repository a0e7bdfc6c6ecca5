-- Seeing: why somebody was refused, by the request's name; refusals of a scope; what happened to a certificate after it
-- was made.
--
-- All indexes are partial, so that a certificate that is issued and simply expires costs nothing here: its one fact is
-- allowed, and is found by the time that its serial carries.

-- +goose Up

ALTER TABLE fact ADD COLUMN request text NULL;
COMMENT ON COLUMN fact.request IS 'Of a refusal: the request it answered, as in the problem document''s instance.';

CREATE INDEX fact_refused ON fact (xid, id) WHERE NOT allowed;
CREATE INDEX fact_refused_by_scope ON fact (scope, xid, id) WHERE NOT allowed;
CREATE INDEX fact_by_request ON fact (request, xid, id) WHERE request IS NOT NULL;
CREATE INDEX fact_by_serial ON fact (serial, xid, id)
WHERE serial IS NOT NULL AND what NOT IN ('certificate.issue', 'certificate.renew', 'enrolment.use');
