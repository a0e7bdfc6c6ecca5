// Package trustfile reads whom a file trusts: PEM bundles (a kube-apiserver's client-CA file is one), sshd's
// TrustedUserCAKeys, authorized_keys and known_hosts with CAs, kubeconfigs, and Teleport's exports, which are any of these or
// YAML with keys inside.
//
// It does not judge. A file is read whole or not at all: a line that is not understood is an error, since whom it trusts would
// stay unknown. Files that a kubeconfig names are read too. Formats: RFC 7468, sshd_config(5), sshd(8), the Kubernetes
// client configuration v1, Teleport's resource cert_authority v2.
package trustfile

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/crypto/ssh"
)

// A Form is what kind of file it is.
type Form string

// The forms.
const (
	PEM        Form = "pem"
	SSH        Form = "ssh"
	Kubeconfig Form = "kubeconfig"
	Teleport   Form = "teleport"
)

// An Anchor is a certificate or an SSH key that a file trusts or shows.
type Anchor struct {
	Where       string            // in the file, as in "line 3" or "clusters[0].cluster.certificate-authority-data"
	Certificate *x509.Certificate // nil: it is an SSH key
	SSH         ssh.PublicKey     // nil: it is a certificate
}

// A File is one that was read.
type File struct {
	Path    string
	Form    Form
	Anchors []Anchor
}

const most = 8 << 20 // octets of a file

// Read reads one file. An error says which line or field is not understood.
func Read(path string) (File, error) {
	text, err := slurp(path)
	if err != nil {
		return File{}, fmt.Errorf("reading %s: %w", path, err)
	}
	f := File{Path: path}
	switch {
	case isYAML(text):
		f.Form, f.Anchors, err = readYAML(path, text)
	case bytes.Contains(text, []byte("-----BEGIN ")):
		f.Form = PEM
		f.Anchors, err = readPEM("", text)
	default:
		f.Form = SSH
		f.Anchors, err = readSSH("", text)
	}
	if err == nil && len(f.Anchors) == 0 {
		err = errors.New("it holds no certificate and no SSH key: is it the right file?")
	}
	if err != nil {
		return File{}, fmt.Errorf("reading %s: %w", path, err)
	}
	return f, nil
}

func slurp(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read
	text, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && len(text) > most {
		err = fmt.Errorf("it is longer than %d octets", most)
	}
	return text, err
}

// readPEM reads certificates. Other blocks, such as keys, trust nobody. Text between blocks is explanatory (RFC 7468 §2).
func readPEM(where string, text []byte) ([]Anchor, error) {
	var out []Anchor
	begun := bytes.Count(text, []byte("-----BEGIN "))
	for n := 1; ; n++ {
		block, rest := pem.Decode(text)
		if block == nil {
			if begun >= n {
				return nil, fmt.Errorf("%sblock %d of %d is broken", where, n, begun)
			}
			return out, nil
		}
		text = rest
		if block.Type != "CERTIFICATE" && block.Type != "TRUSTED CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%sblock %d: %w", where, n, err)
		}
		out = append(out, Anchor{Where: fmt.Sprintf("%sblock %d", where, n), Certificate: c})
	}
}

// readSSH reads lines of public keys: bare as in TrustedUserCAKeys, with options as in authorized_keys, or with a marker and
// hosts as in known_hosts (sshd(8)).
func readSSH(where string, text []byte) ([]Anchor, error) {
	var out []Anchor
	for i, line := range strings.Split(string(text), "\n") {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		keys, err := sshLine(line)
		if err != nil {
			return nil, fmt.Errorf("%sline %d is no public key: %w", where, i+1, err)
		}
		for _, key := range keys {
			out = append(out, Anchor{Where: fmt.Sprintf("%sline %d", where, i+1), SSH: key})
		}
	}
	return out, nil
}

// sshLine returns the keys of a line: of an SSH certificate its own and its CA's.
func sshLine(line string) ([]ssh.PublicKey, error) {
	key, _, _, rest, err := ssh.ParseAuthorizedKey([]byte(line))
	if err != nil {
		_, _, key, _, rest, err = ssh.ParseKnownHosts([]byte(line))
	}
	if err != nil {
		return nil, err
	}
	if len(rest) > 0 {
		return nil, errors.New("something follows it")
	}
	if c, ok := key.(*ssh.Certificate); ok {
		return []ssh.PublicKey{c.Key, c.SignatureKey}, nil
	}
	return []ssh.PublicKey{key}, nil
}
