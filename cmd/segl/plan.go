package main

import (
	"strings"

	"codeberg.org/dataverket/segl/cmd/segl/output"
)

// A plan is what --dry-run says would be done. Nothing was asked of the server: what it would refuse is not known.
type plan struct {
	Do      string   `json:"do"`
	Scope   string   `json:"scope,omitempty"`
	Profile string   `json:"profile,omitempty"`
	Subject string   `json:"subject,omitempty"`
	Names   []string `json:"names,omitempty"`
	Writes  []string `json:"writes,omitempty"`
}

// show prints a plan.
func (p *program) show(what plan) error {
	return output.One(p.out, p.form, what, output.View[plan]{
		Name: func(v plan) string { return v.Do },
		Columns: []output.Column[plan]{
			{Head: "WOULD", Cell: func(v plan) string { return v.Do }},
			{Head: "SUBJECT", Cell: func(v plan) string { return v.Subject }},
			{Head: "SCOPE", Cell: func(v plan) string { return v.Scope }},
			{Head: "PROFILE", Cell: func(v plan) string { return v.Profile }},
			{Head: "NAMES", Cell: func(v plan) string { return strings.Join(v.Names, "\n") }},
			{Head: "WRITES", Cell: func(v plan) string { return strings.Join(v.Writes, "\n") }},
		},
	})
}
