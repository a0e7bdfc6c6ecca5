package main

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"codeberg.org/dataverket/segl/ca/ceremony"
	"codeberg.org/dataverket/segl/ca/lint"
	"codeberg.org/dataverket/segl/cmd/segl/output"
	"codeberg.org/dataverket/segl/cmd/segl/rootkey"
	"codeberg.org/dataverket/segl/internal/cert"
	"codeberg.org/dataverket/segl/kms"
)

// The commands of a ceremony need no server and no network: they read and write the directory of an offline root.
const (
	rootFile = "root.pem"
	listFile = "root.crl"
)

// A room is a root's directory, and what opens its key.
type room struct {
	dir  string
	lock rootkey.Lock
	with []string
}

func (r *room) register(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&r.dir, "dir", "", "keep the root in `DIR`")
	f.StringVar(&r.lock.PassphraseFile, "passphrase-file", "", "seal the key under the passphrase in `FILE`, mode 0600")
	f.StringVar(&r.lock.IdentityFile, "identity-file", "", "open the key with age's identity in `FILE`")
	f.StringVar(&r.lock.Provider, "key-provider", "", "a PKCS #11 token keeps the key: `URI` (bin/segl-pkcs11)")
	f.StringArrayVar(&r.with, "witness", nil, "write `NAME` down as present; may be repeated")
	if err := c.MarkFlagRequired("dir"); err != nil {
		panic("segl: internal error: " + err.Error())
	}
}

// begin begins the transcript of what a command does, after those that are there.
func (r *room) begin(p *program, doing string) (*ceremony.Transcript, string, error) {
	before, n, err := r.lastTranscript()
	if err != nil {
		return nil, "", err
	}
	about := doing + "; " + agent()
	if len(r.with) > 0 {
		about += "; present: " + strings.Join(r.with, ", ")
	}
	return ceremony.Begin(p.now, before, about), transcriptName(n + 1), nil
}

func transcriptName(n int) string { return fmt.Sprintf("transcript-%04d.jsonl", n) }

func (r *room) lastTranscript() (text []byte, n int, err error) {
	for {
		next, err := os.ReadFile(filepath.Join(r.dir, transcriptName(n+1)))
		if errors.Is(err, fs.ErrNotExist) {
			return text, n, nil
		}
		if err != nil {
			return nil, 0, fmt.Errorf("reading the transcript before: %w", err)
		}
		text, n = next, n+1
	}
}

// enter opens the root that a directory keeps.
func (r *room) enter(ctx context.Context) (*x509.Certificate, *rootkey.Kept, error) {
	root, err := oneCertificate(filepath.Join(r.dir, rootFile))
	if err != nil {
		return nil, nil, err
	}
	key, err := r.lock.Open(ctx, r.dir, root.Subject.CommonName, root.PublicKey)
	if err != nil {
		return nil, nil, failing(exitFailed, "%w", err)
	}
	return root, key, nil
}

func oneCertificate(path string) (*x509.Certificate, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, failing(exitFailed, "reading a certificate: %w", err)
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, failing(exitFailed, "%s is no certificate in PEM", path)
	}
	return x509.ParseCertificate(block.Bytes)
}

func certificatePEM(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}

// kept writes a file that must not be there yet; what is secret or decides stays readable to us alone.
func kept(path string, text []byte, mode fs.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return failing(exitConflict, "writing what is to be kept: %w", err).hinted("nothing here is ever overwritten")
	}
	_, err = f.Write(text)
	return errors.Join(err, f.Sync(), f.Close())
}

// A deed is what a ceremony's command answers.
type deed struct {
	What        string `json:"what"`
	File        string `json:"file"`
	Fingerprint string `json:"fingerprint"`
	NotAfter    string `json:"not_after"`
	Transcript  string `json:"transcript"`
}

var deedView = output.View[deed]{
	Name: func(v deed) string { return v.File },
	Columns: []output.Column[deed]{
		{Head: "MADE", Cell: func(v deed) string { return v.What }},
		{Head: "FILE", Cell: func(v deed) string { return v.File }},
		{Head: "SHA-256", Cell: func(v deed) string { return v.Fingerprint }},
		{Head: "EXPIRES", Cell: func(v deed) string { return v.NotAfter }},
		{Head: "TRANSCRIPT", Cell: func(v deed) string { return v.Transcript }},
	},
}

func (p *program) caInit() *cobra.Command {
	var r room
	var domain, name, algorithm string
	life := duration(ceremony.RootLife)
	c := p.prints(&cobra.Command{
		Use: "init --dir DIR --trust-domain DOMAIN --name NAME", Short: "Hold the ceremony that makes an offline root", Args: exactly(),
		Long: `Makes a root's key, its certificate and its first list, away from every server, and signs a
transcript that says every step and hash. The key is sealed with age under a passphrase or
for recipients, or stays in a PKCS #11 token. Nothing that is there is overwritten.`,
		Example: "  segl ca init --dir root --trust-domain dataverket.example --name root-2026 --passphrase-file passphrase --witness Ada --witness Grace",
		RunE: func(c *cobra.Command, _ []string) error {
			alg, err := kms.ParseAlgorithm(algorithm)
			if err != nil {
				return misuse("--algorithm: %w", err)
			}
			if err := ceremony.CheckName(name); err != nil {
				return misuse("--name: %w", err)
			}
			if err := os.MkdirAll(r.dir, 0o700); err != nil {
				return err
			}
			if _, err := os.Stat(filepath.Join(r.dir, rootFile)); err == nil {
				return failing(exitConflict, "%s has a root already", r.dir).hinted("nothing here is ever overwritten")
			}
			return p.found(c.Context(), &r, foundAsk{domain, name, alg, time.Duration(life)})
		},
	})
	r.register(c)
	f := c.Flags()
	f.StringVar(&domain, "trust-domain", "", "name the root after trust domain `DOMAIN`")
	f.StringVar(&name, "name", "", "call it `NAME`")
	f.StringVar(&algorithm, "algorithm", string(kms.P384), "make a key of `KIND`: p256, p384, ed25519, rsa3072, rsa4096")
	f.Var(&life, "life", "have it live `DURATION`")
	f.StringArrayVar(&r.lock.Recipients, "recipient", nil, "seal the key for age `RECIPIENT`; may be repeated")
	for _, flag := range []string{"trust-domain", "name"} {
		if err := c.MarkFlagRequired(flag); err != nil {
			panic("segl: internal error: " + err.Error())
		}
	}
	return c
}

type foundAsk struct {
	domain, name string
	alg          kms.Algorithm
	life         time.Duration
}

func (p *program) found(ctx context.Context, r *room, ask foundAsk) error {
	script, transcript, err := r.begin(p, "make root "+ask.name+" of "+ask.domain)
	if err != nil {
		return err
	}
	key, err := r.lock.Create(ctx, ask.name, ask.alg)
	if err != nil {
		return failing(exitFailed, "%w", err)
	}
	defer key.Close() //nolint:errcheck // everything is signed by then
	script.Note("key", "made a key of "+string(ask.alg), ceremony.HashOf(key.File, key.Text))
	hall := ceremony.Room{Key: key, Script: script, Now: p.now}
	root, err := hall.Found(ctx, ask.domain, ask.name, ask.life)
	if err != nil {
		return failing(exitFailed, "%w", err)
	}
	list, err := hall.List(ctx, root, nil, nil)
	if err != nil {
		return failing(exitFailed, "%w", err)
	}
	script.Note("files", "", ceremony.HashOf(rootFile, certificatePEM(root)), ceremony.HashOf(listFile, list))
	text, err := script.End(ctx, key, root)
	if err != nil {
		return failing(exitFailed, "%w", err)
	}
	at := func(name string) string { return filepath.Join(r.dir, name) }
	if err := errors.Join(kept(at(key.File), key.Text, 0o400), kept(at(listFile), list, 0o644), kept(at(transcript), text, 0o444), kept(at(rootFile), certificatePEM(root), 0o444)); err != nil {
		return err
	}
	return output.One(p.out, p.form, deed{"root " + ask.name, at(rootFile), ceremony.Fingerprint(root.Raw), stamp(root.NotAfter), at(transcript)}, deedView)
}

func (p *program) caSign() *cobra.Command {
	var r room
	var ask ceremony.Ask
	var out, csr string
	var permit, policies []string
	life := duration(ceremony.AuthorityLife)
	c := p.prints(&cobra.Command{
		Use: "sign --dir DIR --csr FILE --public-url URL --root-name NAME --out FILE", Short: "Certify a service's authority with an offline root", Args: exactly(),
		Long: `Certifies an authority from the request that segl ca request gave. Its name and its key are
taken, nothing else. With --permit it can certify those names only (RFC 5280 §4.2.1.10).`,
		Example: "  segl ca sign --dir root --csr servers.csr --public-url http://ca.dataverket.example --root-name root-2026 --passphrase-file passphrase --out servers.pem",
		RunE: func(c *cobra.Command, _ []string) error {
			var err error
			if ask.Permitted, err = permitted(permit); err != nil {
				return err
			}
			for _, s := range policies {
				id, err := x509.ParseOID(s)
				if err != nil {
					return misuse("--policy %.60q: %w", s, err)
				}
				ask.Policies = append(ask.Policies, id)
			}
			ask.Life, ask.PublicURL = time.Duration(life), strings.TrimRight(ask.PublicURL, "/")
			text, err := p.readFile(csr)
			if err != nil {
				return err
			}
			block, _ := pem.Decode(text)
			if block == nil || block.Type != "CERTIFICATE REQUEST" {
				return misuse("%s is no request in PEM", csr)
			}
			return p.ceremony(c.Context(), &r, "certify an authority", func(ctx context.Context, hall ceremony.Room, root *x509.Certificate) (result, error) {
				x, err := hall.Certify(ctx, root, block.Bytes, ask)
				if err != nil {
					return result{}, err
				}
				return result{"authority " + x.Subject.CommonName, out, append(certificatePEM(x), certificatePEM(root)...), x.Raw, x.NotAfter}, nil
			})
		},
	})
	r.register(c)
	f := c.Flags()
	f.StringVar(&csr, "csr", "", "certify the request in `FILE`, PEM")
	f.StringVar(&ask.PublicURL, "public-url", "", "find the root's list and certificate below `URL`, the service's public listener")
	f.StringVar(&ask.RootName, "root-name", "", "the service calls the root `NAME`")
	f.StringVar(&out, "out", "", "write the certificate and the root to `FILE`, PEM")
	f.StringArrayVar(&permit, "permit", nil, "certify `NAME` only, and below: dns:shop.test, ip:10.0.0.0/8 or uri:trust.domain; may be repeated")
	f.StringArrayVar(&policies, "policy", nil, "claim policy `OID`; may be repeated")
	f.Var(&life, "life", "have it live `DURATION`")
	required(c, "csr", "public-url", "root-name", "out")
	return c
}

func required(c *cobra.Command, flags ...string) {
	for _, flag := range flags {
		if err := c.MarkFlagRequired(flag); err != nil {
			panic("segl: internal error: " + err.Error())
		}
	}
}

// permitted reads name constraints.
func permitted(list []string) (*lint.Permitted, error) {
	if len(list) == 0 {
		return nil, nil
	}
	var out lint.Permitted
	for _, s := range list {
		kind, name, _ := strings.Cut(s, ":")
		switch kind {
		case "dns", "uri":
			n, err := cert.ParseDNS(name)
			if err != nil || strings.HasPrefix(n.Value(), "*") {
				return nil, misuse("--permit %.80q: want a name, which stands for those below it too", s)
			}
			if kind == "dns" {
				out.DNS = append(out.DNS, n.Value())
			} else {
				out.URI = append(out.URI, n.Value())
			}
		case "ip":
			r, err := netip.ParsePrefix(name)
			if err != nil {
				return nil, misuse("--permit %.80q: %w", s, err)
			}
			out.IP = append(out.IP, r.Masked())
		default:
			return nil, misuse("--permit %.80q: want dns:, ip: or uri:", s)
		}
	}
	return &out, nil
}

// A result is what a ceremony leaves, for the transcript and for a file.
type result struct {
	what, file string
	text, der  []byte
	ends       time.Time
}

// ceremony opens a root, does one thing with it, and keeps what came of it beside the signed transcript.
func (p *program) ceremony(ctx context.Context, r *room, doing string, do func(context.Context, ceremony.Room, *x509.Certificate) (result, error)) error {
	root, key, err := r.enter(ctx)
	if err != nil {
		return err
	}
	defer key.Close() //nolint:errcheck // everything is signed by then
	script, transcript, err := r.begin(p, doing)
	if err != nil {
		return err
	}
	script.Note("root", "opened "+root.Subject.CommonName, ceremony.HashOf(rootFile, certificatePEM(root)), ceremony.HashOf(key.File, key.Text))
	v, err := do(ctx, ceremony.Room{Key: key, Script: script, Now: p.now}, root)
	if err != nil {
		return failing(exitFailed, "%w", err)
	}
	script.Note("files", "", ceremony.HashOf(filepath.Base(v.file), v.text))
	text, err := script.End(ctx, key, root)
	if err != nil {
		return failing(exitFailed, "%w", err)
	}
	transcript = filepath.Join(r.dir, transcript)
	if err := kept(transcript, text, 0o444); err != nil { // first: what is signed is never without its transcript
		return err
	}
	if v.file == filepath.Join(r.dir, listFile) { // the one file that has a successor
		err = os.Rename(v.file, filepath.Join(r.dir, fmt.Sprintf("root-%s.crl", p.now().UTC().Format("20060102T150405"))))
	}
	if err = errors.Join(err, kept(v.file, v.text, 0o644)); err != nil {
		return err
	}
	return output.One(p.out, p.form, deed{v.what, v.file, ceremony.Fingerprint(v.der), stamp(v.ends), transcript}, deedView)
}

func (p *program) caCrossSign() *cobra.Command {
	var r room
	var other, out string
	life := duration(ceremony.AuthorityLife)
	c := p.prints(&cobra.Command{
		Use: "cross-sign --dir DIR --root-certificate FILE --out FILE", Short: "Vouch for another root with an offline one", Args: exactly(),
		Long: `Certifies another root's name and key with this one, so that whoever trusts only this one
trusts what the other signed. segl ca import --cross gives it to the service, whose ACME clients
then are offered the longer chain as an alternate (RFC 8555 §7.4.2).`,
		RunE: func(c *cobra.Command, _ []string) error {
			x, err := oneCertificate(other)
			if err != nil {
				return err
			}
			return p.ceremony(c.Context(), &r, "vouch for another root", func(ctx context.Context, hall ceremony.Room, root *x509.Certificate) (result, error) {
				cross, err := hall.Cross(ctx, root, x, time.Duration(life))
				if err != nil {
					return result{}, err
				}
				return result{"cross-certificate of " + x.Subject.CommonName, out, append(certificatePEM(cross), certificatePEM(root)...), cross.Raw, cross.NotAfter}, nil
			})
		},
	})
	r.register(c)
	f := c.Flags()
	f.StringVar(&other, "root-certificate", "", "vouch for the root in `FILE`, PEM")
	f.StringVar(&out, "out", "", "write the certificate and this root to `FILE`, PEM")
	f.Var(&life, "life", "have it live `DURATION`, no longer than either root")
	required(c, "root-certificate", "out")
	return c
}

func (p *program) caRootList() *cobra.Command {
	var r room
	var revoke []string
	var reason string
	c := p.prints(&cobra.Command{
		Use: "root-list --dir DIR [--revoke FILE …]", Short: "Make the next list of what an offline root revoked", Args: exactly(),
		Long: `Makes a root's next list: what the last one names, and what is revoked now. segl ca import --list
gives it to the service. Make one before the last one ends: relying parties that check lists
let nobody in without it.`,
		RunE: func(c *cobra.Command, _ []string) error {
			why, err := cert.ParseReason(reason)
			if err != nil {
				return misuse("--%w", err)
			}
			return p.ceremony(c.Context(), &r, "make the next list", func(ctx context.Context, hall ceremony.Room, root *x509.Certificate) (result, error) {
				return r.nextList(ctx, hall, root, revoke, why)
			})
		},
	})
	r.register(c)
	c.Flags().StringArrayVar(&revoke, "revoke", nil, "revoke the certificate in `FILE`, PEM; may be repeated")
	c.Flags().StringVar(&reason, "reason", "cACompromise", "revoke for `REASON`")
	return c
}

// nextList makes a list from the last one, whose entries it keeps.
func (r *room) nextList(ctx context.Context, hall ceremony.Room, root *x509.Certificate, revoke []string, why cert.Reason) (result, error) {
	file := filepath.Join(r.dir, listFile)
	der, err := os.ReadFile(file)
	if err != nil {
		return result{}, fmt.Errorf("reading the last list: %w", err)
	}
	last, err := x509.ParseRevocationList(der)
	if err == nil {
		err = last.CheckSignatureFrom(root)
	}
	if err != nil {
		return result{}, fmt.Errorf("reading the last list: %w", err)
	}
	var more []ceremony.Revoked
	for _, f := range revoke {
		x, err := oneCertificate(f)
		if err != nil {
			return result{}, err
		}
		more = append(more, ceremony.Revoked{Certificate: x, At: hall.Now(), Reason: why})
	}
	next, err := hall.List(ctx, root, last, more)
	if err != nil {
		return result{}, err
	}
	made, err := x509.ParseRevocationList(next)
	if err != nil {
		return result{}, err
	}
	return result{fmt.Sprintf("list %d", made.Number), file, next, next, made.NextUpdate}, nil
}

func (p *program) caVerifyTranscript() *cobra.Command {
	var root, before string
	c := p.prints(&cobra.Command{
		Use: "verify-transcript FILE --root-certificate FILE [--before FILE]", Short: "See that a ceremony's transcript is whole and signed", Args: exactly("FILE"),
		Long: `Reads a transcript, sees that no line was changed, taken away, put in or moved, and that the
root's key signed it; and that the files it names, where they lie beside it, are those it says.`,
		RunE: func(_ *cobra.Command, args []string) error {
			x, err := oneCertificate(root)
			if err != nil {
				return err
			}
			text, err := p.readFile(args[0])
			if err != nil {
				return err
			}
			var earlier []byte
			if before != "" {
				if earlier, err = p.readFile(before); err != nil {
					return err
				}
			}
			steps, err := ceremony.Verify(text, earlier, x)
			if err != nil {
				return failing(exitFindings, "%s: %w", args[0], err)
			}
			if err := beside(filepath.Dir(args[0]), steps); err != nil {
				return err
			}
			return output.List(p.out, p.form, each(steps), stepView)
		},
	})
	c.Flags().StringVar(&root, "root-certificate", "", "of the root in `FILE`, PEM")
	c.Flags().StringVar(&before, "before", "", "it follows the transcript in `FILE`")
	required(c, "root-certificate")
	return c
}

// beside compares the files that a transcript names, as far as they are there, with what it says of them.
func beside(dir string, steps []ceremony.Step) error {
	for _, s := range steps {
		for _, h := range s.Hashes {
			if !slices.Contains([]string{rootFile, rootkey.SealedFile, rootkey.PlaceFile}, h.Name) {
				continue
			}
			text, err := os.ReadFile(filepath.Join(dir, h.Name))
			if err != nil {
				continue // it is kept elsewhere, as a key should be
			}
			if _, same := ceremony.Names(steps, h.Name, bytes.Clone(text)); !same {
				return failing(exitFindings, "%s is not what the transcript says", filepath.Join(dir, h.Name))
			}
		}
	}
	return nil
}

var stepView = output.View[ceremony.Step]{
	Name: func(s ceremony.Step) string { return s.Step },
	Columns: []output.Column[ceremony.Step]{
		{Head: "STEP", Cell: func(s ceremony.Step) string { return fmt.Sprintf("%d %s", s.N, s.Step) }},
		{Head: "AT", Cell: func(s ceremony.Step) string { return s.At.Format(time.RFC3339) }},
		{Head: "WHAT", Cell: func(s ceremony.Step) string { return s.Text }},
		{Head: "HASHES", Cell: func(s ceremony.Step) string {
			var out []string
			for _, h := range s.Hashes {
				out = append(out, h.SHA256+"  "+h.Name)
			}
			return strings.Join(out, "\n")
		}},
	},
}
