package main

import (
	"context"
	"encoding/hex"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"codeberg.org/dataverket/segl/ca/api"
	"codeberg.org/dataverket/segl/cmd/segl/client"
	"codeberg.org/dataverket/segl/cmd/segl/output"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/internal/identity"
)

// A listing is what `segl cert list` was told.
type listing struct {
	scope, profile, authority, name, identity, key, requester string
	within                                                    duration
	revoked, overdue, refused, all, watch                     bool
	limit                                                     int
}

// certList is `segl cert list`.
func (p *program) certList() *cobra.Command {
	var l listing
	c := p.prints(&cobra.Command{
		Use: "list [--scope SCOPE | --all]", Short: "List certificates, the first to expire first", Args: exactly(),
		Long: `Lists the certificates of a scope and everything below it, in order of expiry: revoked
ones in order of their making, those of a requester the newest first.

--overdue lists those that are still valid, should have a successor by now (three quarters
of their lives are over) and have none. --refused lists what was refused in place of
certificates, the newest first.`,
		Example: `  segl cert list --expiring 7d
  segl cert list --scope demo --revoked -o csv
  segl cert list --all --name web.demo.test
  segl cert list --all --overdue -o name
  segl cert list --scope demo --watch`,
		RunE: func(c *cobra.Command, _ []string) error { return p.list(c.Context(), l) },
	})
	f := c.Flags()
	scopeFlag(c, &l.scope)
	f.BoolVar(&l.all, "all", false, "those of every scope (operators)")
	f.Var(&l.within, "expiring", "only those that expire within `DURATION`, such as 7d")
	f.BoolVar(&l.revoked, "revoked", false, "only revoked ones")
	f.BoolVar(&l.overdue, "overdue", false, "only those whose renewal is overdue")
	f.BoolVar(&l.refused, "refused", false, "what was refused, and by which rule, in place of certificates")
	f.StringVar(&l.profile, "profile", "", "only those of `PROFILE`")
	f.StringVar(&l.authority, "authority", "", "only those that `AUTHORITY` issued")
	f.StringVar(&l.name, "name", "", "only those that bear `NAME`: DNS name, IP address or SPIFFE ID")
	f.StringVar(&l.identity, "identity", "", "only those of `SPIFFE-ID`")
	f.StringVar(&l.key, "key", "", "only those of `KEY`: the SHA-256 of its SubjectPublicKeyInfo in hex, or a file with a certificate")
	f.StringVar(&l.requester, "requester", "", "only those that `WHO` asked for, such as a SPIFFE ID")
	f.BoolVarP(&l.watch, "watch", "w", false, "then go on with what is issued, renewed and revoked, until interrupted")
	f.IntVar(&l.limit, "limit", 0, "list `NUMBER` at most (default: all)")
	return c
}

func (l listing) check() error {
	switch {
	case l.all && l.scope != "":
		return misuse("--all and --scope exclude each other").hinted("leave one out")
	case l.limit < 0:
		return misuse("--limit %d: want a number above zero", l.limit)
	case l.name != "" && l.identity != "":
		return misuse("--name and --identity exclude each other").hinted("an identity is a name: leave one out")
	case l.revoked && l.overdue:
		return misuse("--revoked and --overdue exclude each other").hinted("a revoked certificate needs no successor")
	case l.watch && (l.limit > 0 || l.overdue || l.within > 0):
		return misuse("--watch excludes --limit, --overdue and --expiring").hinted("time alone makes a certificate one of those, and nothing tells of that")
	case l.refused && (l.profile+l.authority+l.name+l.identity+l.key != "" || l.revoked || l.overdue || l.within > 0):
		return misuse("--refused takes --scope, --all, --requester, --limit and --watch alone").hinted("what was refused has no certificate")
	}
	return nil
}

func (p *program) list(ctx context.Context, l listing) error {
	if err := l.check(); err != nil {
		return err
	}
	q, err := p.filter(l)
	if err != nil {
		return err
	}
	base, who := "/v1", operator
	if !l.all {
		s, err := p.scope(l.scope)
		if err != nil {
			return err
		}
		base, who = pathOf(s), p.forScope(s)
	}
	remote, err := p.dial(who)
	if err != nil {
		return err
	}
	defer remote.Close()
	if l.refused {
		return p.listRefused(ctx, remote, base, l)
	}
	if l.watch {
		return p.watch(ctx, remote, base, q, l)
	}
	// No bound on the whole: a list may be long. Each request has one.
	return output.List(p.out, p.form, p.certificates(ctx, remote, client.Listing{Path: base + "/certificates", Member: "certificates", Limit: l.limit, Query: q}), p.listView())
}

// certificates yields a list with what each of its certificates comes to now.
func (p *program) certificates(ctx context.Context, remote *client.Client, l client.Listing) func(yield func(listed, error) bool) {
	return func(yield func(listed, error) bool) {
		for s, err := range client.List[api.Summary](ctx, remote, l) {
			if !yield(listed{s, p.status(s)}, p.suggestOperator(err)) {
				return
			}
		}
	}
}

// filter is what the server is asked to choose.
func (p *program) filter(l listing) (url.Values, error) {
	q := url.Values{}
	if l.within > 0 {
		q.Set("expires_after", stamp(p.now()))
		q.Set("expires_before", stamp(p.now().Add(time.Duration(l.within))))
	}
	for name, v := range map[string]bool{"revoked": l.revoked, "overdue": l.overdue} {
		if v {
			q.Set(name, "true")
		}
	}
	for name, v := range map[string]string{"profile": l.profile, "authority": l.authority, "requester": l.requester} {
		if v != "" {
			q.Set(name, v)
		}
	}
	if l.name != "" {
		n, err := parseName(l.name)
		if err != nil {
			return nil, misuse("--name: %w", err)
		}
		q.Set("name", n.String())
	}
	if l.identity != "" {
		if _, err := identity.ParseID(l.identity); err != nil {
			return nil, misuse("--identity: %w", err)
		}
		q.Set("identity", l.identity)
	}
	if l.key != "" {
		key, err := p.fingerprint(l.key)
		if err != nil {
			return nil, err
		}
		q.Set("key", key)
	}
	return q, nil
}

// fingerprint reads the SHA-256 of a key, or computes it of the key in a certificate's file.
func (p *program) fingerprint(arg string) (string, error) {
	s := strings.ToLower(strings.ReplaceAll(arg, ":", ""))
	if b, err := hex.DecodeString(s); err == nil && len(b) == len(cert.KeyID{}) {
		return s, nil
	}
	certs, err := p.readCertificates(arg)
	if err != nil {
		return "", err
	}
	id, err := cert.KeyIDOf(certs[0].PublicKey)
	if err != nil {
		return "", misuse("--key %s: %w", arg, err)
	}
	return hex.EncodeToString(id[:]), nil
}
