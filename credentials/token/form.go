package token

import (
	"net/url"
	"strings"
)

// MaxForm bounds a request: two tokens of 16 KiB, escaped, and what is said about them.
const MaxForm = 48 << 10

const maxParameters = 32

// A Form is a request's parameters.
type Form struct{ values url.Values }

// ParseForm reads application/x-www-form-urlencoded content. RFC 6749 §3.2: "Request and response parameters MUST NOT be included
// more than once", but for audience and resource (RFC 8693 §2.1), and "Parameters sent without a value MUST be treated as if they
// were omitted from the request".
func ParseForm(body []byte) (Form, error) {
	if len(body) > MaxForm || strings.Count(string(body), "&") >= maxParameters {
		return Form{}, refused(InvalidRequest, "want at most %d parameters in %d octets", maxParameters, MaxForm)
	}
	values, err := url.ParseQuery(string(body))
	if err != nil {
		return Form{}, refused(InvalidRequest, "the form is not application/x-www-form-urlencoded")
	}
	for name, list := range values {
		if len(list) > 1 && name != "audience" && name != "resource" {
			return Form{}, refused(InvalidRequest, "parameter %.40q is there %d times, want once (RFC 6749 §3.2)", name, len(list))
		}
	}
	return Form{values}, nil
}

// Get returns a parameter, or nothing.
func (f Form) Get(name string) string { return f.values.Get(name) }

// All returns every value of a parameter that may be there more than once.
func (f Form) All(names ...string) []string {
	var out []string
	for _, name := range names {
		for _, v := range f.values[name] {
			if v != "" {
				out = append(out, v)
			}
		}
	}
	return out
}
