package main

import (
	"encoding/pem"
	"net/http"

	"github.com/spf13/cobra"

	"codeberg.org/dataverket/segl/ca/api"
	"codeberg.org/dataverket/segl/cmd/segl/client"
	"codeberg.org/dataverket/segl/cmd/segl/output"
)

// preparing are the flags that say more of an authority that is to be made.
type preparing struct {
	scope, algorithm string
	permit           []string
}

func (v *preparing) register(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&v.scope, "scope", "", "have it sign for `SCOPE` and below only (default: everybody)")
	f.StringVar(&v.algorithm, "algorithm", "", "make a key of `KIND`: p256, p384, ed25519, rsa2048, rsa3072, rsa4096 (default: p256)")
	f.StringArrayVar(&v.permit, "permit", nil, "let it certify `NAME` only, and below: dns:shop.test, ip:10.0.0.0/8 or uri:trust.domain; may be repeated")
}

// into puts them into a request's body.
func (v *preparing) into(body map[string]any) error {
	constraints, err := permitted(v.permit)
	if err != nil {
		return err
	}
	if v.scope != "" {
		body["scope"] = v.scope
	}
	if v.algorithm != "" {
		body["algorithm"] = v.algorithm
	}
	if constraints == nil {
		return nil
	}
	out := api.Permitted{DNS: constraints.DNS, URI: constraints.URI}
	for _, r := range constraints.IP {
		out.IP = append(out.IP, r.String())
	}
	body["permitted"] = out
	return nil
}

func (p *program) caRequest() *cobra.Command {
	var name, out string
	var v preparing
	c := p.changes(p.prints(&cobra.Command{
		Use: "request PURPOSE --out FILE", Short: "Make an authority's key, and the request that an offline root is to answer", Args: exactly("PURPOSE"),
		Long: `Makes the key of an authority in the service, and writes a request that it has signed. Carry it
to the offline root (segl ca sign), and the answer back (segl ca import).`,
		RunE: func(c *cobra.Command, args []string) error {
			if p.plan {
				return p.show(plan{Do: "make the key of an authority", Subject: join(name, "for "+args[0]), Writes: []string{out}})
			}
			body := map[string]any{"purpose": args[0]}
			if name != "" {
				body["name"] = name
			}
			if err := v.into(body); err != nil {
				return err
			}
			var made api.AuthorityRequest
			if err := p.asked(c.Context(), client.Request{Method: http.MethodPost, Path: "/v1/authorities:request", Body: body}, &made); err != nil {
				return err
			}
			if err := kept(out, []byte(made.CSR), 0o644); err != nil {
				return err
			}
			return output.One(p.out, p.form, made, output.View[api.AuthorityRequest]{
				Name:    func(v api.AuthorityRequest) string { return v.Name },
				Columns: []output.Column[api.AuthorityRequest]{{Head: "NAME", Cell: func(v api.AuthorityRequest) string { return v.Name }}, {Head: "REQUEST", Cell: func(api.AuthorityRequest) string { return out }}},
			})
		},
	}))
	v.register(c)
	c.Flags().StringVar(&name, "name", "", "call it `NAME` (default: the purpose, the site and a number)")
	c.Flags().StringVar(&out, "out", "", "write the request to `FILE`, PEM")
	required(c, "out")
	return c
}

func (p *program) caImport() *cobra.Command {
	var purpose, name, scope, list string
	var cross bool
	c := p.changes(p.prints(&cobra.Command{
		Use: "import FILE --purpose PURPOSE --name NAME [--list FILE]", Short: "Take in what an offline root's ceremony made", Args: exactly("FILE"),
		Long: `Takes in a root with its list, an authority that it certified, or, with --cross, a certificate by
which one root vouches for another. A root and an authority are prepared then: published, and
signing nothing until they are activated. Given again, nothing changes. An offline root's next
list is taken in by naming the root: --purpose root --name NAME --list FILE with its certificate.`,
		Example: `  segl ca import root/root.pem --purpose root --name root-2026 --list root/root.crl
  segl ca import servers.pem --purpose servers --name servers-1-2`,
		RunE: func(c *cobra.Command, args []string) error {
			if p.plan {
				return p.show(plan{Do: "import", Subject: args[0]})
			}
			chain, err := p.readFile(args[0])
			if err != nil {
				return err
			}
			body := map[string]any{"certificate": string(chain)}
			if cross {
				if purpose+name+scope+list != "" {
					return misuse("--cross needs no other flag")
				}
				return p.caDo(c.Context(), client.Request{Method: http.MethodPost, Path: "/v1/authorities:import-cross", Body: body, Idempotent: true})
			}
			if purpose == "" || name == "" {
				return misuse("what it is for and what it is called are missing").hinted("give --purpose and --name")
			}
			body["purpose"], body["name"] = purpose, name
			if scope != "" {
				body["scope"] = scope
			}
			var text string
			if list != "" {
				der, err := p.readFile(list)
				if err != nil {
					return err
				}
				text = string(pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der}))
				body["list"] = text
			}
			var out api.Authority
			if err := p.asked(c.Context(), client.Request{Method: http.MethodPost, Path: "/v1/authorities:import", Body: body, Idempotent: true}, &out); err != nil {
				return err
			}
			if purpose == "root" && text != "" { // where the root was there, its list may be the next
				if err := p.asked(c.Context(), client.Request{Method: http.MethodPost, Path: "/v1/authorities/" + name + ":import-list", Body: map[string]any{"list": text}, Idempotent: true}, &out); err != nil {
					return err
				}
			}
			return output.One(p.out, p.form, out, authorityView)
		},
	}))
	f := c.Flags()
	f.StringVar(&purpose, "purpose", "", "it is for `PURPOSE`: root, servers, workloads or databases")
	f.StringVar(&name, "name", "", "call the root `NAME`; of an authority, the name that was requested")
	f.StringVar(&scope, "scope", "", "have it sign for `SCOPE` and below only (default: everybody)")
	f.StringVar(&list, "list", "", "take in the root's list in `FILE`, DER")
	f.BoolVar(&cross, "cross", false, "it is a certificate by which one root vouches for another")
	return c
}
