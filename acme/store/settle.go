package store

import (
	"context"
	"encoding/json"
	"time"

	"github.com/jackc/pgx/v5"

	"codeberg.org/dataverket/segl/acme"
	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/uid"
)

// A settlement is how one validation ended.
type settlement struct {
	id       uid.UID
	queued   acme.Queued
	ended    acme.Validation
	evidence *string
	problem  []byte
	facts    []audit.Fact
	counts   bool // filled in
}

// Settle implements acme.Store. Facts are written by whoever's outcome counts.
func (s *Store) Settle(ctx context.Context, id uid.UID, queued acme.Queued, v acme.Validation, facts ...audit.Fact) (bool, error) {
	e := &settlement{id: id, queued: queued, ended: v, facts: facts}
	if v.Problem == nil {
		e.evidence = &v.Evidence
	} else {
		raw, err := json.Marshal(v.Problem)
		if err != nil {
			return false, err
		}
		e.problem = raw
	}
	if err := s.ended.Do(ctx, e); err != nil {
		return false, err
	}
	return e.counts, nil
}

// settleAll records outcomes that came together. Those with facts have a statement each: they are refusals, and rare.
func (s *Store) settleAll(ctx context.Context, b *pgx.Batch, all []*settlement) func(pgx.BatchResults) error {
	var plain, noting []*settlement
	var queued [][]byte
	for _, e := range all {
		if len(e.facts) == 0 {
			plain = append(plain, e)
		} else {
			noting = append(noting, e)
		}
		if e.queued {
			queued = append(queued, e.id.Bytes())
		}
	}
	weeks := make(map[string][]*settlement)
	for _, e := range plain {
		week := s.week(ctx, "acme_validation", e.id)
		weeks[week] = append(weeks[week], e)
	}
	for week, some := range weeks {
		queuePlain(b, week, some)
	}
	for _, e := range noting {
		b.Queue(settleNoting, append(audit.Columns(e.facts...), e.id.Bytes(), e.ended.At, string(e.ended.Method), e.evidence, e.problem)...)
	}
	if len(queued) > 0 {
		b.Queue(`
			DELETE FROM acme_attempt
			WHERE  authorization_id = ANY ($1::bytea[])`, queued)
	}
	return func(results pgx.BatchResults) error {
		counted := make(map[uid.UID]bool, len(all))
		if err := readSettled(results, len(weeks)+len(noting), counted); err != nil {
			return err
		}
		if len(queued) > 0 {
			if _, err := results.Exec(); err != nil {
				return err
			}
		}
		for _, e := range all { // of two that came together for one authorization, the first counts
			e.counts = counted[e.id]
			delete(counted, e.id)
		}
		return nil
	}
}

func queuePlain(b *pgx.Batch, week string, plain []*settlement) {
	n := len(plain)
	ids, at, methods := make([][]byte, n), make([]time.Time, n), make([]string, n)
	evidence, problems := make([]*string, n), make([][]byte, n)
	for i, e := range plain {
		ids[i], at[i], methods[i], evidence[i], problems[i] = e.id.Bytes(), e.ended.At, string(e.ended.Method), e.evidence, e.problem
	}
	b.Queue(`
		INSERT INTO acme_validation`+week+` (authorization_id, at, method, evidence, problem)
		SELECT v.id, v.at, v.method, v.evidence, v.problem
		FROM   unnest($1::bytea[], $2::timestamptz[], $3::text[], $4::text[], $5::jsonb[]) AS v (id, at, method, evidence, problem)
		ON     CONFLICT DO NOTHING
		RETURNING authorization_id`, ids, at, methods, evidence, problems)
}

func readSettled(results pgx.BatchResults, statements int, counted map[uid.UID]bool) error {
	for range statements {
		rows, err := results.Query()
		if err != nil {
			return err
		}
		var raw []byte
		_, err = pgx.ForEachRow(rows, []any{&raw}, func() error {
			id, err := uid.FromBytes(raw)
			counted[id] = true
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

const settleNoting = `
	WITH settled AS (
		INSERT INTO acme_validation (authorization_id, at, method, evidence, problem)
		VALUES ($10::bytea, $11::timestamptz, $12::text, $13::text, $14::jsonb)
		ON     CONFLICT DO NOTHING
		RETURNING authorization_id
	), noted AS (` + audit.Insert + `
		WHERE EXISTS (SELECT FROM settled)
	)
	SELECT authorization_id
	FROM   settled`
