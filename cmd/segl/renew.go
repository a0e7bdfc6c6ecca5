package main

import (
	"context"
	"crypto"
	"errors"
	"net/http"

	"github.com/spf13/cobra"

	"codeberg.org/dataverket/segl/ca/api"
	"codeberg.org/dataverket/segl/cmd/segl/client"
	"codeberg.org/dataverket/segl/cmd/segl/keypair"
)

// A renewal is what `segl cert renew` was asked.
type renewal struct {
	out          string
	key          keypair.Type
	reuse, force bool
}

// certRenew is `segl cert renew`.
func (p *program) certRenew() *cobra.Command {
	var r renewal
	c := p.changes(p.prints(&cobra.Command{
		Use: "renew --cert FILE --key FILE [--out PREFIX]", Short: "Renew a certificate that is still valid, by showing it", Args: exactly(),
		Long: `Shows the certificate in --cert and gets its successor: the same names, if they are
still allowed, and the same length of life. Without --out it takes the place of the old
one. A certificate has one successor: renewing again after a lost answer gets the same
one, because the new key is kept until its certificate is there.

With --as operator the operator's certificate is renewed.`,
		RunE: func(c *cobra.Command, _ []string) error { return p.renew(c.Context(), r) },
	}))
	f := c.Flags()
	f.StringVar(&r.out, "out", "", "write `PREFIX`.pem and PREFIX-key.pem, and leave the old ones as they are")
	keyType(c, &r.key)
	f.BoolVar(&r.reuse, "reuse-key", false, "keep the key: for those who pinned it")
	f.BoolVar(&r.force, "force", false, "replace a key that is not of the certificate beside it")
	return c
}

func (p *program) renew(ctx context.Context, r renewal) error {
	if r.reuse && r.key != "" {
		return misuse("--reuse-key and --key-type exclude each other").hinted("leave one out")
	}
	who := workload
	if p.remote.as != "" {
		who = p.remote.as
	}
	from := p.identityFiles(who)
	if done, err := p.finish(from); done || err != nil {
		return err
	}
	remote, err := p.dial(who)
	if err != nil {
		return err
	}
	defer remote.Close()
	to := from
	if r.out != "" {
		to = keypair.At(r.out)
	}
	if p.plan {
		return p.show(plan{Do: "renew", Subject: from.Chain, Writes: []string{to.Chain, to.Key}})
	}
	if to != from {
		if err := p.mayReplace(to, r.force); err != nil {
			return err
		}
	}
	old, err := keypair.ReadKey(from.Key)
	if err != nil {
		return err
	}
	if r.reuse {
		issued, err := p.successor(ctx, remote, old)
		if err != nil {
			return explainRenewal(err)
		}
		if err := to.InstallWith([]byte(issued.Certificate), old); err != nil {
			return err
		}
		return p.printMade(made{issued, p.status(issued.Summary), to.Chain, to.Key})
	}
	if r.key == "" && !to.Staged() {
		r.key = keypair.TypeOf(old)
	}
	key, err := to.Stage(r.key)
	if err != nil {
		return err
	}
	issued, err := p.successor(ctx, remote, key)
	return p.install(to, key, issued, explainRenewal(err))
}

// finish finishes a renewal in place that was cut short between its two files, and reports whether there was one.
func (p *program) finish(files keypair.Files) (done bool, err error) {
	if p.plan || files.Chain == "" || files.Key == "" || !files.Staged() {
		return false, nil
	}
	if _, err := files.Load(); err == nil {
		return false, nil // both are still the old ones
	}
	if err := files.Recover(); err != nil {
		return false, err
	}
	if _, err := files.Load(); err != nil {
		return false, nil //nolint:nilerr // nothing of ours was cut short: whoever loads them says what is wrong
	}
	p.note("finished a renewal that was cut short: %s and %s are the new ones", files.Chain, files.Key)
	return true, nil
}

// successor asks for the successor of the certificate that the connection is made with.
func (p *program) successor(ctx context.Context, remote *client.Client, key crypto.Signer) (api.Certificate, error) {
	csr, err := keypair.Request(key, "", nil)
	if err != nil {
		return api.Certificate{}, err
	}
	ctx, cancel := p.within(ctx)
	defer cancel()
	var out api.Certificate
	err = remote.Do(ctx, client.Request{
		Method: http.MethodPost, Path: "/v1/certificates:renew", Idempotent: true, // the same key gets the same successor
		Body: api.RenewRequest{CSR: string(csr)},
	}, &out)
	return out, err
}

// explainRenewal adds to a refusal what is to be done in the place of renewing.
func explainRenewal(err error) error {
	problem, ok := errors.AsType[*client.Problem](err)
	if !ok {
		return err
	}
	f := &failure{code: problemCode(problem.Status), err: err, hint: problemHint(problem)}
	if client.Named(err, "already-done") {
		return f.hinted("somebody renewed it with another key: if that was not you, revoke both; else use that one, or enroll again")
	}
	return f
}
