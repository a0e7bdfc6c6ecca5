-- Validation: a try that failed is repeated on a schedule, and no account fills the queue.
--
-- The queue of attempts is worked on in place and is empty when nothing waits, so its new columns need no filling in.

-- +goose Up

ALTER TABLE acme_attempt ADD COLUMN account bytea NULL;
ALTER TABLE acme_attempt ADD COLUMN payload bytea NULL;
ALTER TABLE acme_attempt ADD COLUMN problem jsonb NULL;
COMMENT ON COLUMN acme_attempt.account IS 'Whose attempt it is: bounded in number for each, and taken over in turn.';
COMMENT ON COLUMN acme_attempt.payload IS 'What the client sent with its answer, for methods that prove by it (device-attest-01).';
COMMENT ON COLUMN acme_attempt.problem IS 'What the tries so far found, the last first (RFC 8555 §8.2); shown while the next one is awaited.';
COMMENT ON COLUMN acme_attempt.tries IS 'How many tries were begun, by whichever replica.';
COMMENT ON COLUMN acme_attempt.next_try_at IS 'When the next try is due, by the clock of whoever scheduled it.';

CREATE INDEX acme_attempt_by_account ON acme_attempt (account, next_try_at);
CREATE INDEX acme_attempt_by_time ON acme_attempt (next_try_at);
