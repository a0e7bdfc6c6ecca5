package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"codeberg.org/dataverket/segl/cmd/segl/client"
	"codeberg.org/dataverket/segl/internal/postgres"
	"codeberg.org/dataverket/segl/internal/web"
	"codeberg.org/dataverket/segl/migrations"
)

// fixes says what to do about what /readyz finds.
var fixes = map[string]string{
	"database":   "start the database, and see that database.url in the configuration leads to it",
	"durability": "turn on what is named; nothing issued before is safe",
	"clock":      "set the clocks of this machine and of the database's: timedatectl set-ntp true",
	"keys":       "see the log for the key; is passphrase_file the right one?",
	"partitions": "see the log of the epochs duty; segl migrate if the schema is old",
	"epochs":     "see the log of the epochs duty; segl migrate if the schema is old",
	"lists":      "see the log of the crl duty; a stale list shuts everybody out",
	"drain":      "the server is stopping: wait, or start it again",
}

// checkReadiness reads /readyz: the server's own view of what it needs.
func (x *examination) checkReadiness(ctx context.Context) {
	if x.Private == "" {
		return
	}
	c, err := x.plain(x.Private)
	if err != nil {
		x.add(ill("readiness", err, ""))
		return
	}
	defer c.Close()
	body, header, err := c.Fetch(ctx, client.Request{Method: http.MethodGet, Path: "/readyz", Once: true}) // 503 is an answer here
	if header == nil {
		x.add(ill("readiness", err, "is segl running on this machine? systemctl status segl"))
		return
	}
	var state web.Readiness
	if json.Unmarshal(body, &state) != nil || len(state.Checks) == 0 {
		x.add(ill("readiness", errors.New("/readyz says nothing that can be read"), "is "+c.URL()+" the private listener?"))
		return
	}
	for _, f := range state.Checks {
		if f.OK {
			x.add(well("ready: "+f.Name, "well"))
		} else {
			x.add(ill("ready: "+f.Name, errors.New(f.Why), fixes[f.Name]))
		}
	}
}

// checkDatabase asks the database itself: does it answer, is the schema ours, does it keep what it promises.
func (x *examination) checkDatabase(ctx context.Context) {
	if x.Database == "" {
		return
	}
	const check = "database"
	begun := x.Now()
	db, err := postgres.Open(ctx, postgres.Config{URL: x.Database, MaxConns: 1})
	if err != nil {
		x.add(ill(check, err, fixes["database"]))
		return
	}
	defer db.Close()
	if err := db.Ping(ctx); err != nil {
		x.add(ill(check, err, fixes["database"]))
		return
	}
	x.add(well(check, "answers after %s", x.Now().Sub(begun).Round(time.Millisecond)))
	if err := postgres.CheckSchema(ctx, db, migrations.FS); err != nil {
		x.add(ill("schema", err, "segl migrate, with the newest program that uses this database"))
	} else {
		x.add(well("schema", "is this program's"))
	}
}

// checkPublished reads what the checker found: whether what is published is what the ledger holds.
func (x *examination) checkPublished(ctx context.Context) {
	const check, fix = "published", "see the log for `published is not what the ledger holds`; a proxy that keeps too long, or a duty that fails"
	if x.Private == "" {
		return
	}
	c, err := x.plain(x.Private)
	if err != nil {
		return // readiness has said so
	}
	defer c.Close()
	body, _, err := c.Fetch(ctx, client.Request{Method: http.MethodGet, Path: "/findings", Once: true})
	if err != nil {
		return // readiness has said so
	}
	var report struct {
		At       time.Time `json:"at"`
		Findings []struct{ Check, Where, What string }
	}
	if err := json.Unmarshal(body, &report); err != nil {
		x.add(ill(check, fmt.Errorf("reading /findings: %w", err), fix))
		return
	}
	for _, f := range report.Findings {
		x.add(ill(check, fmt.Errorf("%s: %s: %s", f.Check, f.Where, f.What), fix))
	}
	switch {
	case report.At.IsZero():
		x.add(well(check, "not compared with the ledger yet"))
	case len(report.Findings) == 0:
		x.add(well(check, "what the ledger holds, says %s", stamp(report.At)))
	}
}
