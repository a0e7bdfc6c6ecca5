package main

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"

	"github.com/spf13/cobra"
	"golang.org/x/crypto/ssh"

	"codeberg.org/dataverket/segl/cmd/segl/output"
	"codeberg.org/dataverket/segl/cmd/segl/server"
	"codeberg.org/dataverket/segl/cmd/segl/trustfile"
	"codeberg.org/dataverket/segl/internal/breakglass"
)

// A trustCheck is what `segl check-trust` was asked.
type trustCheck struct {
	roots, place, config string
	emergency            []string
}

// Places of trust. What is trusted in one may not be of the other.
const (
	daily     = "daily"
	emergency = "break-glass"
	other     = "other"
)

// checkTrust is `segl check-trust`.
func (p *program) checkTrust() *cobra.Command {
	var v trustCheck
	c := p.prints(&cobra.Command{
		Use: "check-trust --root FILE [--break-glass FILE | --config FILE] FILE...", Short: "See that the daily and the break-glass CA are not trusted in each other's place",
		Args: atLeast("FILE"),
		Long: `Reads whom each FILE trusts: a PEM bundle (as a kube-apiserver's client-CA file is), sshd's
TrustedUserCAKeys, authorized_keys or known_hosts with CAs, a kubeconfig, or what Teleport
exports; and says of each certificate and key whether it is of the daily CA, of break-glass
or of another, by fingerprint, by key and by chain. Exit code 7 says that one is where it
may not be:

  the daily CA   in SSH's files and kubeconfigs (break-glass is the SSH and Kubernetes CA of
                 emergencies, and must not hang on the daily CA), unless --for daily
  break-glass    in Teleport's exports, unless --for break-glass
  both           in one file of any other form

With --for, every FILE is for the one named.`,
		RunE: func(_ *cobra.Command, args []string) error { return p.checkTrustFiles(v, args) },
	})
	f := c.Flags()
	text(f, &v.roots, "root", "SEGL_ROOT", "the daily CA: its roots in `FILE`, PEM")
	f.StringSliceVar(&v.emergency, "break-glass", nil, "an emergency CA: its certificates or SSH keys in `FILE`; may be repeated")
	f.StringVar(&v.config, "config", "", "the emergency CAs that the configuration in `FILE` names")
	f.StringVar(&v.place, "for", "", "every file is for `WHOM`: daily or break-glass (default: as its form says)")
	choices(c, "for", daily, emergency)
	return c
}

// A trusted is one line of the answer.
type trusted struct {
	File        string `json:"file"`
	Where       string `json:"where"`
	Kind        string `json:"kind"` // x509 or ssh
	Subject     string `json:"subject"`
	Fingerprint string `json:"fingerprint"` // SHA-256
	CA          string `json:"ca"`          // daily, break-glass or other
	How         string `json:"how,omitempty"`
	Finding     string `json:"finding,omitempty"`
}

var trustedView = output.View[trusted]{
	Name: func(t trusted) string { return t.Fingerprint },
	Columns: []output.Column[trusted]{
		{Head: "FILE", Cell: func(t trusted) string { return t.File }},
		{Head: "WHERE", Cell: func(t trusted) string { return t.Where }},
		{Head: "KIND", Cell: func(t trusted) string { return t.Kind }},
		{Head: "SUBJECT", Cell: func(t trusted) string { return t.Subject }},
		{Head: "CA", Cell: func(t trusted) string { return t.CA }},
		{Head: "FINDING", Cell: func(t trusted) string { return t.Finding }},
	},
}

// sides are the two CAs as they are known here.
type sides struct {
	daily, emergency *breakglass.Guard
	known            []*x509.Certificate
}

func (p *program) checkTrustFiles(v trustCheck, paths []string) error {
	s, err := p.sides(v)
	if err != nil {
		return err
	}
	var all []trusted
	found := 0
	for _, path := range paths {
		f, err := trustfile.Read(path)
		if err != nil {
			return err
		}
		list, err := s.judge(f, v.place)
		if err != nil {
			return err
		}
		for _, t := range list {
			if t.Finding != "" {
				found++
			}
		}
		all = append(all, list...)
	}
	if err := output.List(p.out, p.form, sequence(all), trustedView); err != nil {
		return err
	}
	if found > 0 {
		return failing(exitFindings, "%d of %d certificates and keys are trusted where they may not be", found, len(all)).
			hinted("take them out of the file; docs/break-glass.md says what emergency access must never depend on")
	}
	return nil
}

// sides reads what the two CAs are known by.
func (p *program) sides(v trustCheck) (sides, error) {
	root := p.or(v.roots, "SEGL_ROOT")
	switch {
	case root == "":
		return sides{}, misuse("the daily CA is unknown").hinted("give --root or set SEGL_ROOT")
	case v.config != "" && len(v.emergency) > 0:
		return sides{}, misuse("--config and --break-glass both name the emergency CAs").hinted("give one of them")
	case v.config == "" && len(v.emergency) == 0:
		return sides{}, misuse("the emergency CA is unknown").hinted("give --break-glass FILE, or --config with the file of segl serve")
	}
	var s sides
	var entries []breakglass.Entry
	if v.config != "" {
		cfg, err := server.Load(v.config)
		if err != nil {
			return sides{}, err
		}
		if entries = cfg.BreakGlass; len(entries) == 0 {
			return sides{}, misuse("%s names no emergency CA", v.config).hinted("add break_glass to it, or give --break-glass FILE")
		}
	}
	for _, path := range v.emergency {
		more, err := s.name(path)
		if err != nil {
			return sides{}, err
		}
		entries = append(entries, more...)
	}
	ours, err := s.name(root)
	if err != nil {
		return sides{}, err
	}
	if s.daily, err = breakglass.Parse(ours); err != nil {
		return sides{}, err
	}
	s.emergency, err = breakglass.Parse(entries)
	return s, err
}

// name describes every certificate and key of a file by its fingerprints.
func (s *sides) name(path string) ([]breakglass.Entry, error) {
	f, err := trustfile.Read(path)
	if err != nil {
		return nil, err
	}
	var out []breakglass.Entry
	for _, a := range f.Anchors {
		e := breakglass.Entry{Name: path}
		pub := any(nil)
		if c := a.Certificate; c != nil {
			s.known = append(s.known, c)
			e.Certificate, e.Key, pub = sum(c.Raw), sum(c.RawSubjectPublicKeyInfo), c.PublicKey
		} else if k, ok := a.SSH.(ssh.CryptoPublicKey); ok {
			pub = k.CryptoPublicKey()
		}
		if key, err := ssh.NewPublicKey(pub); err == nil {
			e.SSH = ssh.FingerprintSHA256(key)
		}
		if der, err := x509.MarshalPKIXPublicKey(pub); err == nil {
			e.Key = sum(der)
		}
		out = append(out, e)
	}
	return out, nil
}

func sum(b []byte) string {
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:])
}

// judge says whose each anchor of a file is, and which may not be there.
func (s *sides) judge(f trustfile.File, place string) ([]trusted, error) {
	if place == "" {
		place = map[trustfile.Form]string{trustfile.SSH: emergency, trustfile.Kubeconfig: emergency, trustfile.Teleport: daily}[f.Form]
	}
	known := s.known
	for _, a := range f.Anchors {
		if a.Certificate != nil {
			known = append(known[:len(known):len(known)], a.Certificate)
		}
	}
	var out []trusted
	has := map[string]bool{}
	for _, a := range f.Anchors {
		t, err := s.whose(a, known)
		if err != nil {
			return nil, err
		}
		t.File, t.Where = f.Path, a.Where
		has[t.CA] = true
		out = append(out, t)
	}
	for i := range out {
		out[i].Finding = misplaced(out[i].CA, place, place == "" && has[daily] && has[emergency])
	}
	return out, nil
}

func misplaced(ca, place string, both bool) string {
	switch {
	case ca == daily && place == emergency:
		return "the daily CA where only break-glass may be"
	case ca == emergency && place == daily:
		return "break-glass where only the daily CA may be"
	case both && ca != other:
		return "the daily CA and break-glass in one file"
	}
	return ""
}

func (s *sides) whose(a trustfile.Anchor, known []*x509.Certificate) (trusted, error) {
	t := trusted{CA: other}
	check := func(g *breakglass.Guard) error { return g.SSH("key", a.SSH) }
	if c := a.Certificate; c != nil {
		t.Kind, t.Subject, t.Fingerprint = "x509", c.Subject.String(), sum(c.Raw)
		check = func(g *breakglass.Guard) error { return g.Above("certificate", c, known...) }
	} else {
		t.Kind, t.Subject, t.Fingerprint = "ssh", a.SSH.Type(), ssh.FingerprintSHA256(a.SSH)
	}
	for _, side := range []struct {
		name  string
		guard *breakglass.Guard
	}{{daily, s.daily}, {emergency, s.emergency}} {
		var touch *breakglass.Touch
		err := check(side.guard)
		switch {
		case errors.As(err, &touch):
			t.CA, t.How = side.name, touch.How // of one that is both, break-glass is said
		case err != nil:
			return t, err
		}
	}
	return t, nil
}
