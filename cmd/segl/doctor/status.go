package doctor

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"time"

	"golang.org/x/crypto/ocsp"

	"codeberg.org/dataverket/segl/cmd/segl/chain"
	"codeberg.org/dataverket/segl/cmd/segl/client"
)

// checkPublic looks at what relying parties see.
func (x *examination) checkPublic(ctx context.Context) {
	if x.Public == "" {
		return
	}
	c, err := x.plain(x.Public)
	if err != nil {
		x.add(ill("public listener", err, ""))
		return
	}
	defer c.Close()
	x.checkRoots(ctx, c)
	x.checkLists(ctx, c)
	for _, path := range x.trust.paths {
		x.checkOCSP(ctx, c, path)
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
	published, err := chain.Parse(body)
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
	now := x.Now()
	switch {
	case now.After(list.NextUpdate):
		return fmt.Errorf("should have been followed at %s", stamp(list.NextUpdate))
	case list.ThisUpdate.After(now.Add(clockNotice)):
		return fmt.Errorf("is of %s, which is yet to come: compare the clocks", stamp(list.ThisUpdate))
	}
	known := x.trust.roots
	for _, path := range x.trust.paths {
		known = append(known, path[1:]...)
	}
	for _, authority := range known {
		if bytes.Equal(authority.SubjectKeyId, list.AuthorityKeyId) {
			return list.CheckSignatureFrom(authority)
		}
	}
	return nil
}

// checkOCSP asks about an identity of ours.
func (x *examination) checkOCSP(ctx context.Context, c *client.Client, path []*x509.Certificate) {
	const check = "ocsp"
	answer, err := x.ask(ctx, c, path[0], path[1])
	if err != nil {
		x.add(ill(check, err, "see the server's log; /readyz tells whether the keys are well"))
		return
	}
	switch now := x.Now(); {
	case answer.Status == ocsp.Revoked:
		x.add(ill(check, fmt.Errorf("%s is revoked since %s", chain.Title(path[0]), stamp(answer.RevokedAt)), "enroll again"))
	case answer.Status != ocsp.Good:
		x.add(ill(check, fmt.Errorf("%s is not known to the server", chain.Title(path[0])), "enroll again; or the ledger was restored from before it was issued"))
	case answer.ThisUpdate.After(now.Add(clockNotice)) || !answer.NextUpdate.IsZero() && now.After(answer.NextUpdate):
		x.add(ill(check, fmt.Errorf("the answer is for %s to %s, not for now", stamp(answer.ThisUpdate), stamp(answer.NextUpdate)),
			"set the clocks of this machine and the server: timedatectl set-ntp true"))
	default:
		x.add(well(check, "%s is good, says %s", chain.Title(path[0]), stamp(answer.ProducedAt)))
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
