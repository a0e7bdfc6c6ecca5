package store

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"codeberg.org/dataverket/segl/acme"
	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/uid"
)

// claims are authorizations of one week about to be recorded, by column.
type claims struct {
	id, account, token [][]byte
	expires            []time.Time
	name               []string
	proof              []int64
	subdomains         []*bool
}

func (c *claims) add(a acme.Authorization) {
	c.id, c.account, c.token = append(c.id, a.ID.Bytes()), append(c.account, a.Account.Bytes()), append(c.token, append([]byte(nil), a.Token[:]...))
	c.expires, c.name, c.proof = append(c.expires, a.Expires), append(c.name, a.Name.String()), append(c.proof, a.Proof())
	var covers *bool
	if a.Subdomains {
		covers = &a.Subdomains
	}
	c.subdomains = append(c.subdomains, covers)
}

func (c *claims) queue(b *pgx.Batch, week string) {
	b.Queue(`
		INSERT INTO acme_authorization`+week+` (id, account, expires_at, name, token, proof, subdomains)
		SELECT c.id, c.account, c.expires_at, c.name, c.token, c.proof, c.subdomains
		FROM   unnest($1::bytea[], $2::bytea[], $3::timestamptz[], $4::text[], $5::bytea[], $6::bigint[], $7::boolean[])
		       AS c (id, account, expires_at, name, token, proof, subdomains)`,
		c.id, c.account, c.expires, c.name, c.token, c.proof, c.subdomains)
}

// queueClaims adds a statement for each week that all were made in. One that has a validation is there already.
func (s *Store) queueClaims(ctx context.Context, b *pgx.Batch, all []acme.Authorization) {
	seen := make(map[uid.UID]bool, len(all))
	weeks := make(map[string]*claims)
	for _, a := range all {
		if a.Validation != nil || seen[a.ID] { // one that covers subdomains serves several names
			continue
		}
		seen[a.ID] = true
		week := s.week(ctx, "acme_authorization", a.ID)
		if weeks[week] == nil {
			weeks[week] = &claims{}
		}
		weeks[week].add(a)
	}
	for week, c := range weeks {
		c.queue(b, week)
	}
}

// CreateAuthorization implements acme.Store.
func (s *Store) CreateAuthorization(ctx context.Context, a acme.Authorization) error {
	var b pgx.Batch
	s.queueClaims(ctx, &b, []acme.Authorization{a})
	_, err := s.write(ctx, &b)
	return err
}

// Deactivate implements acme.Store.
func (s *Store) Deactivate(ctx context.Context, a acme.Authorization, f audit.Fact) error {
	_, err := s.db.Exec(ctx, `
		WITH ended AS (
			UPDATE acme_authorization
			SET    deactivated_at = $11
			WHERE  id = $10 AND deactivated_at IS NULL
			RETURNING id
		)`+audit.Insert+`
		WHERE EXISTS (SELECT FROM ended)`,
		append(audit.Columns(f), a.ID.Bytes(), a.Deactivated)...)
	return err
}

// A search is one account's question for authorizations, and what was found.
type search struct {
	wanted []acme.Wanted
	found  []acme.Authorization
}

// Proofs implements acme.Store.
func (s *Store) Proofs(ctx context.Context, wanted []acme.Wanted) ([]acme.Authorization, error) {
	if len(wanted) == 0 {
		return nil, nil
	}
	q := &search{wanted: wanted}
	if err := s.sought.Do(ctx, q); err != nil {
		return nil, err
	}
	return q.found, nil
}

// searchProofs reads of each that is wanted the valid authorization that lasts longest. No validation is older than the
// authorization, so that one range of identifiers bounds both. It does not sort by identifier: the server would then read a
// week's authorizations in that order until it met one. Each of the weeks that one can be in is asked by its name (Store.week).
func searchProofs(week string) string {
	return `
	SELECT w.number, c.id, c.account, c.expires_at, c.name, c.token, c.subdomains, c.method, c.at, c.evidence
	FROM   unnest($1::integer[], $2::bigint[], $3::bytea[], $4::text[], $5::boolean[], $6::timestamptz[])
	       AS w (number, proof, account, name, subdomains, until)
	CROSS  JOIN LATERAL (
	           SELECT d.id, d.account, d.expires_at, d.name, d.token, d.subdomains, v.method, v.at, v.evidence
	           FROM   acme_authorization` + week + ` d
	           CROSS  JOIN LATERAL (
	                      SELECT e.method, e.at, e.evidence
	                      FROM   acme_validation` + week + ` e
	                      WHERE  e.authorization_id = d.id AND e.authorization_id >= $7 AND e.authorization_id < $8 AND e.problem IS NULL
	                      LIMIT  1
	                  ) v
	           WHERE  d.proof = w.proof AND d.id >= $7 AND d.id < $8
	           AND    d.account = w.account AND d.name = w.name AND (d.subdomains IS NOT NULL) = w.subdomains
	           AND    d.expires_at >= w.until AND d.deactivated_at IS NULL
	           ORDER  BY d.expires_at DESC
	           LIMIT  1
	       ) c`
}

// search answers questions that came together.
func (s *Store) search(ctx context.Context, b *pgx.Batch, all []*search) func(pgx.BatchResults) error {
	var numbers []int32
	var proofs []int64
	var accounts [][]byte
	var names []string
	var subdomains []bool
	var until []time.Time
	for i, q := range all {
		q.found = nil // of a try before
		for _, w := range q.wanted {
			numbers, proofs, accounts = append(numbers, int32(i)), append(proofs, w.Proof()), append(accounts, w.Account.Bytes()) //nolint:gosec // at most groupSize
			names, subdomains, until = append(names, w.Name.String()), append(subdomains, w.Subdomains), append(until, w.Until)
		}
	}
	site, now := all[0].wanted[0].Site, s.nonces.now()
	weeks := s.proofWeeks(ctx, site, now)
	for _, week := range weeks {
		b.Queue(searchProofs(week), numbers, proofs, accounts, names, subdomains, until,
			uid.Floor(uid.Authorization, site, now.Add(-oldestProof)).Bytes(), uid.Floor(uid.Authorization, site, now.Add(clockSpread)).Bytes())
	}
	return func(results pgx.BatchResults) error {
		best := map[sought]int{}
		for range weeks {
			if err := readFound(results, all, best); err != nil {
				return err
			}
		}
		return nil
	}
}

// proofWeeks returns what the names of the partitions end with that a valid authorization can be in: two or three. Where it cannot be
// told which there are, it is the empty one, which leads to the parents.
func (s *Store) proofWeeks(ctx context.Context, site byte, now time.Time) (weeks []string) {
	oldest := now.Add(-oldestProof)
	for e := uid.EpochOf(oldest); e <= uid.EpochOf(now.Add(clockSpread)); e++ {
		at := e.Start()
		if at.Before(oldest) {
			at = oldest
		}
		id := uid.Floor(uid.Authorization, site, at)
		week := s.week(ctx, "acme_authorization", id)
		if week != "" {
			weeks = append(weeks, week)
		} else if missing, looked := s.weeks.Load(id.Partition("acme_authorization")); !looked || missing.(time.Time).IsZero() {
			return []string{""}
		}
	}
	return weeks
}

// sought is what one search looks for.
type sought struct {
	search     int32
	account    uid.UID
	name       cert.Name
	subdomains bool
}

// readFound reads what one week has. best says where in its search's findings each stands that is sought.
func readFound(results pgx.BatchResults, all []*search, best map[sought]int) error {
	rows, err := results.Query()
	if err != nil {
		return err
	}
	var number int32
	var r authorizationRow
	_, err = pgx.ForEachRow(rows,
		[]any{&number, &r.ID, &r.Account, &r.ExpiresAt, &r.Name, &r.Token, &r.Subdomains, &r.Validated, &r.At, &r.Evidence},
		func() error {
			a, err := r.authorization()
			if err != nil {
				return err
			}
			q, what := all[number], sought{number, a.Account, a.Name, a.Subdomains}
			switch i, ok := best[what]; {
			case !ok:
				best[what], q.found = len(q.found), append(q.found, a)
			case a.Expires.After(q.found[i].Expires):
				q.found[i] = a
			}
			return nil
		})
	return err
}

// oldestProof bounds how long ago an authorization was made that is still valid, so that only those partitions are opened: each is
// made for a week.
const oldestProof = 8 * 24 * time.Hour
