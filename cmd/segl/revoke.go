package main

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"codeberg.org/dataverket/segl/ca/api"
	"codeberg.org/dataverket/segl/cmd/segl/client"
	"codeberg.org/dataverket/segl/cmd/segl/output"
	"codeberg.org/dataverket/segl/internal/cert"
)

// certRevoke is `segl cert revoke`.
func (p *program) certRevoke() *cobra.Command {
	var reason string
	var yes bool
	var many order
	c := p.changes(p.prints(&cobra.Command{
		Use: "revoke {SERIAL|FILE|choice} --reason REASON", Short: "Revoke a certificate, or many, for ever", Args: atMost(1),
		Long: `Ends a certificate before its time, for ever. Revoking for keyCompromise also bars its
key from any further certificate. At a terminal it asks for confirmation; elsewhere it
does not. Revoking again for the same reason changes nothing and is no error.

In place of one certificate a choice may be given (operators): all that was issued until
now and matches every flag of it is revoked. OCSP says so of all at once; the lists
follow, and segl incident show tells how far they are. --dry-run counts.

Reasons (RFC 5280 §5.3.1): unspecified, keyCompromise, affiliationChanged, superseded,
cessationOfOperation; for operators also privilegeWithdrawn, cACompromise and
aACompromise.`,
		Example: "  segl cert revoke web.pem --reason keyCompromise\n  segl cert revoke --scope demo --issued-before 2026-05-04T06:00:00Z --why 'stolen backup' --reason superseded",
		RunE: func(c *cobra.Command, args []string) error {
			why, err := cert.ParseReason(reason)
			if err != nil {
				return misuse("--%w", err)
			}
			if many.choice.given() || len(args) == 0 {
				if len(args) > 0 {
					return misuse("%q and a choice ask for two things", args[0]).hinted("leave one out")
				}
				many.reason, many.yes = why.String(), yes
				return p.revokeMany(c.Context(), many)
			}
			serial, err := p.serial(args[0])
			if err != nil {
				return err
			}
			ctx, cancel := p.within(c.Context())
			defer cancel()
			if p.plan || !yes && p.interactive() {
				found, err := p.find(ctx, serial)
				if err != nil {
					return err
				}
				if p.plan {
					return p.show(plan{Do: "revoke for " + why.String(), Subject: found.Serial, Scope: found.Scope, Profile: found.Profile, Names: found.Names})
				}
				if err := p.confirm(found); err != nil {
					return err
				}
			}
			return p.revoke(ctx, serial, why)
		},
	}))
	c.Flags().StringVar(&reason, "reason", "unspecified", "revoke for `REASON`")
	choices(c, "reason", "unspecified", "keyCompromise", "affiliationChanged", "superseded", "cessationOfOperation", "privilegeWithdrawn", "cACompromise", "aACompromise")
	c.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask for confirmation")
	many.choice.register(c)
	c.Flags().StringVar(&many.why, "why", "", "of a choice: write down `REASON`")
	c.Flags().StringVar(&many.key, "idempotency-key", "", "of a choice: make repeating the command return the same incident: any `WORD`")
	return c
}

// revokeMany revokes what a choice chooses.
func (p *program) revokeMany(ctx context.Context, o order) error {
	if !o.choice.given() {
		return misuse("SERIAL or FILE is missing").hinted("name a certificate, or choose several: see segl cert revoke --help")
	}
	chosen, err := o.choice.chosen()
	if err != nil {
		return err
	}
	if o.why == "" {
		return misuse("--why is missing").hinted("it is what the record says of many")
	}
	return p.pull(ctx, o, pull{
		said:    "This ends certificates for ever, for " + o.reason,
		preview: map[string]any{"choice": chosen, "why": o.why, "deadline": "1h", "reason": o.reason},
		path:    "/v1/certificates:revoke",
		body:    map[string]any{"choice": chosen, "why": o.why, "reason": o.reason},
	})
}

func (p *program) revoke(ctx context.Context, serial cert.Serial, why cert.Reason) error {
	remote, err := p.dial(p.anybody())
	if err != nil {
		return err
	}
	defer remote.Close()
	var out api.Certificate
	err = remote.Do(ctx, client.Request{
		Method: http.MethodPost, Path: "/v1/certificates/" + serial.String() + ":revoke", Idempotent: true, // twice is once
		Body: map[string]string{"reason": why.String()},
	}, &out)
	if err != nil {
		return p.suggestOperator(err)
	}
	view := p.certView()
	view.Details = view.Details[:3] // serial, status, revoked
	return output.One(p.out, p.form, shown{out, p.status(out.Summary), nil}, view)
}

// interactive reports whether a person is there to be asked: stdin is a terminal. /dev/null is a device too, and no person.
func (p *program) interactive() bool {
	f, ok := p.in.(*os.File)
	if !ok {
		return false
	}
	s, err := f.Stat()
	if err != nil || s.Mode()&os.ModeCharDevice == 0 {
		return false
	}
	null, err := os.Stat(os.DevNull)
	return err == nil && !os.SameFile(s, null)
}

// confirm shows what cannot be undone, and asks for the end of the serial.
func (p *program) confirm(c api.Certificate) error {
	const digits = 6
	return p.confirmed(fmt.Sprintf("This ends certificate %s of %s for ever:\n  %s", c.Serial, c.Scope, strings.Join(c.Names, "\n  ")),
		c.Serial[len(c.Serial)-digits:])
}

// confirmed shows what is about to be done, and goes on only for who types want.
func (p *program) confirmed(what, want string) error {
	fmt.Fprintf(p.err, "%s\nType %s to go on: ", what, want) //nolint:errcheck // nowhere else to ask
	line, err := bufio.NewReader(p.in).ReadString('\n')
	if strings.TrimSpace(line) != want {
		if err != nil {
			return failing(exitFailed, "reading the confirmation: %w", err)
		}
		return failing(exitFailed, "not confirmed: nothing was done").hinted("--yes goes on without asking")
	}
	return nil
}
