package trustfile

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v3"
)

// isYAML reports whether text is YAML with fields, which neither PEM nor SSH's lines are.
func isYAML(text []byte) bool {
	var doc yaml.Node
	err := yaml.NewDecoder(bytes.NewReader(text)).Decode(&doc)
	return err == nil && len(doc.Content) == 1 && doc.Content[0].Kind == yaml.MappingNode
}

// readYAML finds every certificate and SSH key in every document, whatever field it is in: as text, or in base64.
func readYAML(path string, text []byte) (Form, []Anchor, error) {
	form, w := Kubeconfig, walk{dir: filepath.Dir(path)}
	dec := yaml.NewDecoder(bytes.NewReader(text))
	for {
		var doc yaml.Node
		err := dec.Decode(&doc)
		if errors.Is(err, io.EOF) {
			return form, w.found, nil
		}
		if err != nil {
			return "", nil, err
		}
		for _, root := range doc.Content {
			if kindOf(root) == "cert_authority" {
				form = Teleport
			}
			if err := w.node("", root, 0); err != nil {
				return "", nil, err
			}
		}
	}
}

func kindOf(n *yaml.Node) string {
	for i := 0; n.Kind == yaml.MappingNode && i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == "kind" {
			return n.Content[i+1].Value
		}
	}
	return ""
}

// A walk goes through a document.
type walk struct {
	dir   string
	found []Anchor
}

const deepest = 32

func (w *walk) node(at string, n *yaml.Node, depth int) error {
	if depth > deepest {
		return fmt.Errorf("%s is nested deeper than %d", at, deepest)
	}
	switch n.Kind { //nolint:exhaustive // a document has nothing else
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			key, value := n.Content[i].Value, n.Content[i+1]
			below := strings.TrimPrefix(at+"."+key, ".")
			// Kubernetes client configuration v1: paths "relative to the directory of the kubeconfig file".
			if (key == "certificate-authority" || key == "client-certificate") && value.Kind == yaml.ScalarNode && value.Value != "" {
				if err := w.file(below, value.Value); err != nil {
					return err
				}
				continue
			}
			if err := w.node(below, value, depth+1); err != nil {
				return err
			}
		}
	case yaml.SequenceNode:
		for i, item := range n.Content {
			if err := w.node(fmt.Sprintf("%s[%d]", at, i), item, depth+1); err != nil {
				return err
			}
		}
	case yaml.AliasNode:
		return fmt.Errorf("%s is an alias: write it out", at)
	case yaml.ScalarNode:
		return w.scalar(at, n.Value)
	}
	return nil
}

func (w *walk) file(at, path string) error {
	if !filepath.IsAbs(path) {
		path = filepath.Join(w.dir, path)
	}
	text, err := slurp(path)
	if err != nil {
		return fmt.Errorf("%s: %w", at, err)
	}
	return w.add(readPEM(at+" ", text))
}

func (w *walk) scalar(at, value string) error {
	text := strings.TrimSpace(value)
	if decoded, err := base64.StdEncoding.DecodeString(text); err == nil {
		text = strings.TrimSpace(string(decoded))
	}
	switch {
	case strings.Contains(text, "-----BEGIN "):
		return w.add(readPEM(at+" ", []byte(text)))
	case strings.HasPrefix(text, "ssh-"), strings.HasPrefix(text, "ecdsa-sha2-"), strings.HasPrefix(text, "sk-"), strings.HasPrefix(text, "cert-authority "),
		strings.HasPrefix(text, "@cert-authority "):
		return w.add(readSSH(at+" ", []byte(text)))
	}
	return nil
}

func (w *walk) add(found []Anchor, err error) error {
	w.found = append(w.found, found...)
	return err
}
