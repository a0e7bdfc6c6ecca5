package main

import (
	"context"
	"crypto"
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
	if _, err := p.identity(who); err != nil && r.out == "" {
		return p.recoverThen(err, p.identityFiles(who))
	}
	from := p.identityFiles(who)
	old, err := keypair.ReadKey(from.Key)
	if err != nil {
		return err
	}
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
	if r.reuse {
		return p.renewWith(ctx, who, to, old)
	}
	if r.key == "" && !to.Staged() {
		r.key = keypair.TypeOf(old)
	}
	key, err := to.Stage(r.key)
	if err != nil {
		return err
	}
	issued, err := p.successor(ctx, who, key)
	return p.install(to, key, issued, err)
}

// recoverThen finishes a renewal that was cut short between its two files, or returns why the old pair cannot be read.
func (p *program) recoverThen(err error, files keypair.Files) error {
	if files.Chain == "" || files.Key == "" || !files.Staged() {
		return err
	}
	if rerr := files.Recover(); rerr != nil {
		return rerr
	}
	if _, lerr := files.Load(); lerr != nil {
		return err
	}
	p.note("finished a renewal that was cut short: %s is in place", files.Key)
	return nil
}

// renewWith keeps the key.
func (p *program) renewWith(ctx context.Context, who party, to keypair.Files, key crypto.Signer) error {
	issued, err := p.successor(ctx, who, key)
	if err != nil {
		return err
	}
	if err := to.InstallWith([]byte(issued.Certificate), key); err != nil {
		return err
	}
	return p.printMade(made{issued, p.status(issued.Summary), to.Chain, to.Key})
}

// successor asks for the successor of the certificate that who shows.
func (p *program) successor(ctx context.Context, who party, key crypto.Signer) (api.Certificate, error) {
	csr, err := keypair.Request(key, "", nil)
	if err != nil {
		return api.Certificate{}, err
	}
	remote, err := p.dial(who)
	if err != nil {
		return api.Certificate{}, err
	}
	defer remote.Close()
	ctx, cancel := p.within(ctx)
	defer cancel()
	var out api.Certificate
	err = remote.Do(ctx, client.Request{
		Method: http.MethodPost, Path: "/v1/certificates:renew", Idempotent: true, // the same key gets the same successor
		Body: api.RenewRequest{CSR: string(csr)},
	}, &out)
	return out, err
}
