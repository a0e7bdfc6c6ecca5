package server

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"codeberg.org/dataverket/segl/ca/check"
	"codeberg.org/dataverket/segl/ca/ocsp"
	"codeberg.org/dataverket/segl/internal/audit"
	"codeberg.org/dataverket/segl/internal/duty"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/postgres"
	"codeberg.org/dataverket/segl/internal/web"
)

// checker compares what is published with the ledger. Its report is in the database: any replica shows it.
type checker struct {
	*check.Checker
	server *Server
	before []check.Finding // of the last run here: what is found twice in a row is a difference, not a moment
	told   []check.Finding // what has a fact
}

const (
	checkEvery = time.Minute
	// fetchMost bounds what a listener may answer the checker with: the whole list of a million.
	fetchMost    = 80 << 20
	fetchTimeout = 30 * time.Second
)

// openChecker makes the duty that checks, and the measures of what it finds.
func (s *Server) openChecker() {
	c := &checker{server: s}
	client := &http.Client{Timeout: fetchTimeout}
	c.Checker = check.New(check.Config{
		Ledger: s.ledger, Authorities: s.signers, Endpoints: append([]string{s.cfg.URLs.Public}, s.cfg.Check.Endpoints...),
		Fetch: func(ctx context.Context, url string, body []byte) ([]byte, error) {
			return fetch(ctx, client, url, body)
		},
		Site: byte(s.cfg.Site), Now: s.now, //nolint:gosec // checked
	})
	s.duties = append(s.duties, duty.Duty{Name: "check", Every: checkEvery, Once: c.once})
	gauge := func(name, help string, value func(at time.Time, found []check.Finding) float64) {
		s.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 {
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second) // a scrape has no context
			defer cancel()
			at, found, err := s.findings(postgres.AsOwner(ctx))
			if err != nil {
				return -1
			}
			return value(at, found)
		}))
	}
	gauge("segl_check_findings", "Differences between what is published and the ledger; -1 when the database did not answer.",
		func(_ time.Time, found []check.Finding) float64 { return float64(len(found)) })
	gauge("segl_check_last_seconds", "Unix time at which what is published was last compared with the ledger.",
		func(at time.Time, _ []check.Finding) float64 { return float64(at.Unix()) })
}

func (c *checker) once(ctx context.Context, _ int64) error {
	now, err := c.RunOnce(ctx)
	if err != nil {
		return err
	}
	stand := []check.Finding{}
	var facts []audit.Fact
	for _, f := range now {
		if !slices.ContainsFunc(c.before, func(o check.Finding) bool { return o.Check == f.Check && o.Where == f.Where }) {
			continue
		}
		stand = append(stand, f)
		if !slices.ContainsFunc(c.told, func(o check.Finding) bool { return o.Check == f.Check && o.Where == f.Where }) {
			c.server.log.Error("published is not what the ledger holds", "check", f.Check, "where", f.Where, "what", f.What)
			facts = append(facts, audit.Fact{
				At: c.server.now(), Who: identity.System("check"), Scope: identity.Platform, What: audit.Difference, Subject: f.Where, Why: f.Check + ": " + f.What,
			})
		}
	}
	c.before, c.told = now, stand
	text, err := json.Marshal(stand)
	if err != nil {
		return fmt.Errorf("encoding findings: %w", err)
	}
	return c.server.ledger.Report(ctx, c.server.now(), text, facts)
}

// findings returns the newest report.
func (s *Server) findings(ctx context.Context) (at time.Time, found []check.Finding, err error) {
	at, text, err := s.ledger.Reported(ctx)
	if err == nil {
		err = json.Unmarshal(text, &found)
	}
	return at, found, err
}

// fetch is a relying party's request.
func fetch(ctx context.Context, client *http.Client, url string, body []byte) ([]byte, error) {
	method, reader := http.MethodGet, io.Reader(http.NoBody)
	if body != nil {
		method, reader = http.MethodPost, bytes.NewReader(body)
	}
	req, err := http.NewRequestWithContext(ctx, method, url, reader)
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", ocsp.RequestType)
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close() //nolint:errcheck // only read
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("status %s", resp.Status)
	}
	return io.ReadAll(io.LimitReader(resp.Body, fetchMost))
}

// findingsDoor shows the report, for segl doctor.
func (s *Server) findingsDoor() web.Door {
	return web.Door{Routes: []web.Route{{Method: http.MethodGet, Path: "/findings", Access: web.Anyone, Handler: web.Raw(
		func(w http.ResponseWriter, r *http.Request, _ identity.Caller) error {
			at, found, err := s.findings(r.Context())
			if err != nil {
				return err
			}
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Cache-Control", "no-store")
			return json.NewEncoder(w).Encode(struct {
				At       time.Time       `json:"at"`
				Findings []check.Finding `json:"findings"`
			}{at, found})
		},
	)}}}
}
