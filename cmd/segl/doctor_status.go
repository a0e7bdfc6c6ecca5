package main

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"time"

	"golang.org/x/crypto/ocsp"

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
	"lists":      "see the log of the crl duty; a stale list shuts everybody out",
	"drain":      "the server is stopping: wait, or start it again",
}

// checkReadiness reads /readyz: the server's own view of what it needs.
func (x *examination) checkReadiness(ctx context.Context) {
	c, err := x.plainClient(x.remote.privateURL, "SEGL_PRIVATE_URL")
	if c == nil && err == nil {
		return
	}
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
	url := x.or(x.database, "SEGL_DATABASE_URL")
	if url == "" {
		return
	}
	const check = "database"
	begun := x.now()
	db, err := postgres.Open(ctx, postgres.Config{URL: url, MaxConns: 1})
	if err != nil {
		x.add(ill(check, err, fixes["database"]))
		return
	}
	defer db.Close()
	if err := db.Ping(ctx); err != nil {
		x.add(ill(check, err, fixes["database"]))
		return
	}
	x.add(well(check, "answers after %s", x.now().Sub(begun).Round(time.Millisecond)))
	if err := postgres.CheckSchema(ctx, db, migrations.FS); err != nil {
		x.add(ill("schema", err, "segl migrate, with the newest program that uses this database"))
	} else {
		x.add(well("schema", "is this program's"))
	}
}

// checkPublic looks at what relying parties see.
func (x *examination) checkPublic(ctx context.Context) {
	c, err := x.plainClient(x.remote.publicURL, "SEGL_PUBLIC_URL")
	if c == nil && err == nil {
		return
	}
	if err != nil {
		x.add(ill("public listener", err, ""))
		return
	}
	defer c.Close()
	x.checkRoots(ctx, c)
	x.checkLists(ctx, c)
	for _, chain := range x.trust.chains {
		x.checkOCSP(ctx, c, chain)
	}
}

// checkRoots compares the root in use here with those the server publishes.
func (x *examination) checkRoots(ctx context.Context, c *client.Client) {
	const check = "published roots"
	body, _, err := c.Fetch(ctx, client.Request{Method: http.MethodGet, Path: "/roots.pem"})
	if err != nil {
		x.add(ill(check, err, ""))
		return
	}
	published, err := parseCertificates(body)
	if err != nil {
		x.add(ill(check, err, "is "+c.URL()+" the public listener?"))
		return
	}
	for _, ours := range x.trust.roots {
		for _, theirs := range published {
			if ours.Equal(theirs) {
				x.add(well(check, "hold the root in use here"))
				return
			}
		}
	}
	if len(x.trust.roots) > 0 {
		x.add(ill(check, errors.New("the root in use here is not among them"), "this server, or this root, is another installation's"))
	}
}

// checkLists reads every revocation list that the server publishes.
func (x *examination) checkLists(ctx context.Context, c *client.Client) {
	const check = "revocation lists"
	body, _, err := c.Fetch(ctx, client.Request{Method: http.MethodGet, Path: "/crls.pem"})
	if err != nil {
		x.add(ill(check, err, fixes["lists"]))
		return
	}
	n, next, err := x.readLists(body)
	if err != nil {
		x.add(ill(check, err, fixes["lists"]))
		return
	}
	x.add(well(check, "%s; the first must be followed by %s", count(n, "list", "lists"), stamp(next)))
}

// readLists returns how many lists there are and when the first of them ends.
func (x *examination) readLists(text []byte) (n int, first time.Time, err error) {
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		list, err := x509.ParseRevocationList(block.Bytes)
		if err != nil {
			return n, first, fmt.Errorf("list %d cannot be read: %w", n+1, err)
		}
		if err := x.judge(list); err != nil {
			return n, first, fmt.Errorf("list %s of %s: %w", list.Number, list.Issuer.CommonName, err)
		}
		if n++; first.IsZero() || list.NextUpdate.Before(first) {
			first = list.NextUpdate
		}
	}
	if n == 0 {
		return 0, first, errors.New("there is none")
	}
	return n, first, nil
}

// judge refuses a list that is stale, or that its authority did not sign, as far as that one is known here.
func (x *examination) judge(list *x509.RevocationList) error {
	now := x.now()
	switch {
	case now.After(list.NextUpdate):
		return fmt.Errorf("should have been followed at %s", stamp(list.NextUpdate))
	case list.ThisUpdate.After(now.Add(clockNotice)):
		return fmt.Errorf("is of %s, which is yet to come: compare the clocks", stamp(list.ThisUpdate))
	}
	known := x.trust.roots
	for _, chain := range x.trust.chains {
		known = append(known, chain[1:]...)
	}
	for _, authority := range known {
		if bytes.Equal(authority.SubjectKeyId, list.AuthorityKeyId) {
			return list.CheckSignatureFrom(authority)
		}
	}
	return nil
}

// checkOCSP asks about an identity of ours.
func (x *examination) checkOCSP(ctx context.Context, c *client.Client, chain []*x509.Certificate) {
	check := "ocsp"
	answer, err := x.ask(ctx, c, chain[0], chain[1])
	if err != nil {
		x.add(ill(check, err, "see the server's log; /readyz tells whether the keys are well"))
		return
	}
	switch now := x.now(); {
	case answer.Status == ocsp.Revoked:
		x.add(ill(check, fmt.Errorf("%s is revoked since %s", title(chain[0]), stamp(answer.RevokedAt)), "enroll again"))
	case answer.Status != ocsp.Good:
		x.add(ill(check, fmt.Errorf("%s is not known to the server", title(chain[0])), "enroll again; or the ledger was restored from before it was issued"))
	case answer.ThisUpdate.After(now.Add(clockNotice)) || !answer.NextUpdate.IsZero() && now.After(answer.NextUpdate):
		x.add(ill(check, fmt.Errorf("the answer is for %s to %s, not for now", stamp(answer.ThisUpdate), stamp(answer.NextUpdate)),
			"set the clocks of this machine and the server: timedatectl set-ntp true"))
	default:
		x.add(well(check, "%s is good, says %s", title(chain[0]), stamp(answer.ProducedAt)))
	}
}

func (x *examination) ask(ctx context.Context, c *client.Client, leaf, issuer *x509.Certificate) (*ocsp.Response, error) {
	request, err := ocsp.CreateRequest(leaf, issuer, nil)
	if err != nil {
		return nil, fmt.Errorf("making an OCSP request: %w", err)
	}
	body, _, err := c.Fetch(ctx, client.Request{
		Method: http.MethodPost, Path: "/ocsp", Idempotent: true, Raw: request, Type: "application/ocsp-request", // RFC 6960 appendix A.1
	})
	if err != nil {
		return nil, err
	}
	answer, err := ocsp.ParseResponseForCert(body, leaf, issuer)
	if err != nil {
		return nil, fmt.Errorf("reading the OCSP answer: %w", err)
	}
	return answer, nil
}
