package output

import (
	"encoding/json"
	"io"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

type jsonPrinter[T any] struct {
	w     io.Writer
	arity arity
	begun bool
}

func (p *jsonPrinter[T]) print(v T) error {
	before, indent := "", ""
	if p.arity == many {
		before, indent = "[\n  ", "  "
		if p.begun {
			before = ",\n  "
		}
	}
	p.begun = true
	b, err := encodeJSON(v, indent)
	if err != nil {
		return err
	}
	_, err = io.WriteString(p.w, before+strings.TrimSuffix(b, "\n"))
	return err
}

func (p *jsonPrinter[T]) end() error {
	after := "\n"
	switch {
	case p.arity == many && p.begun:
		after = "\n]\n"
	case p.arity == many:
		after = "[]\n"
	}
	_, err := io.WriteString(p.w, after)
	return err
}

// encodeJSON writes v, its lines but the first behind indent.
func encodeJSON(v any, indent string) (string, error) {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent(indent, "  ")
	err := e.Encode(v)
	return b.String(), err
}

type yamlPrinter[T any] struct {
	w     io.Writer
	arity arity
	begun bool
}

// print goes by way of JSON, so that YAML has the same members; JSON is YAML (YAML 1.2.2 §1.3), and reading it as YAML
// keeps the order of members.
func (p *yamlPrinter[T]) print(v T) error {
	p.begun = true
	s, err := encodeJSON(v, "")
	if err != nil {
		return err
	}
	var n yaml.Node
	if err := yaml.Unmarshal([]byte(s), &n); err != nil {
		return err
	}
	plain(&n)
	if p.arity == many {
		n.Content[0] = &yaml.Node{Kind: yaml.SequenceNode, Content: []*yaml.Node{n.Content[0]}}
	}
	e := yaml.NewEncoder(p.w)
	e.SetIndent(padding)
	if err := e.Encode(&n); err != nil {
		return err
	}
	return nil
}

// plain takes off the style that JSON gave, except from words that YAML 1.1 reads as true or false.
func plain(n *yaml.Node) {
	n.Style = 0
	switch {
	case n.Kind != yaml.ScalarNode:
	case strings.Contains(n.Value, "\n"):
		n.Style = yaml.LiteralStyle
	case n.Tag == "!!str" && slices.Contains([]string{"y", "n", "yes", "no", "on", "off"}, strings.ToLower(n.Value)):
		n.Style = yaml.DoubleQuotedStyle
	}
	for _, c := range n.Content {
		plain(c)
	}
}

func (p *yamlPrinter[T]) end() error {
	if p.arity == many && !p.begun {
		_, err := io.WriteString(p.w, "[]\n")
		return err
	}
	return nil
}

// encodeJSONLine writes v on one line.
func encodeJSONLine(v any) (string, error) {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return b.String(), err
}
