package validate

import (
	"slices"
	"strings"
)

// An issueValue is the value of a CAA issue or issuewild property, and of a dns-persist-01 record (RFC 8659 §4.2).
type issueValue struct {
	issuer     string // lower case; empty: nobody
	parameters []parameter
}

type parameter struct{ tag, value string } // the tag in lower case

// parseIssue reads
//
//	issue-value = *WSP [issuer-domain-name *WSP] [";" *WSP [parameters *WSP]]
//	issuer-domain-name = label *("." label)
//	label = (ALPHA / DIGIT) *( *("-") (ALPHA / DIGIT))
//	parameters = (parameter *WSP ";" *WSP parameters) / parameter
//	parameter = tag *WSP "=" *WSP value
//	tag = (ALPHA / DIGIT) *( *("-") (ALPHA / DIGIT))
//	value = *(%x21-3A / %x3C-7E)
//
// and returns false for what does not match.
func parseIssue(s string) (issueValue, bool) {
	issuer, rest, more := strings.Cut(s, ";")
	v := issueValue{issuer: strings.ToLower(strings.Trim(issuer, wsp))}
	if v.issuer != "" {
		for label := range strings.SplitSeq(v.issuer, ".") {
			if !isLabel(label) {
				return issueValue{}, false
			}
		}
	}
	if rest = strings.Trim(rest, wsp); !more || rest == "" {
		return v, true
	}
	for text := range strings.SplitSeq(rest, ";") {
		tag, value, ok := strings.Cut(text, "=")
		tag, value = strings.Trim(tag, wsp), strings.Trim(value, wsp)
		if !ok || !isLabel(tag) || strings.ContainsFunc(value, func(r rune) bool { return r < 0x21 || r > 0x7e }) {
			return issueValue{}, false
		}
		v.parameters = append(v.parameters, parameter{strings.ToLower(tag), value})
	}
	return v, true
}

const wsp = " \t" // RFC 5234 §B.1

func isLabel(s string) bool {
	if s == "" || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	return !strings.ContainsFunc(s, func(r rune) bool { return !alnum(r) && r != '-' })
}

func alnum(r rune) bool { return '0' <= r && r <= '9' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' }

// only returns the value of the parameter tag, and how many there are.
func (v issueValue) only(tag string) (value string, count int) {
	for _, p := range v.parameters {
		if p.tag == tag {
			value, count = p.value, count+1
		}
	}
	return value, count
}

// admits reports whether v lets account prove by method. RFC 8657 §3: "A Property with an invalid or unrecognized
// "accounturi" parameter is unsatisfiable. A Property with multiple "accounturi" parameters is unsatisfiable." URIs compare
// as strings (RFC 3986 §6.2.1). Parameters nobody here knows say nothing (RFC 8659 §4.2 leaves them to the issuer).
func (v issueValue) admits(account, method string) bool {
	uri, n := v.only("accounturi")
	if n > 1 || n == 1 && (uri == "" || uri != account) {
		return false
	}
	methods, n := v.only("validationmethods")
	return n == 0 || n == 1 && slices.Contains(methodsIn(methods), method)
}

// methodsIn reads
//
//	value = [*(label ",") label]
//	label = 1*(ALPHA / DIGIT / "-")
//
// What does not match names nothing. RFC 8657 §4: "A Property with a "validationmethods" parameter … [of which] none is
// recognized … is unsatisfiable."
func methodsIn(value string) []string {
	list := strings.Split(value, ",")
	for _, m := range list {
		if m == "" || strings.ContainsFunc(m, func(r rune) bool { return !alnum(r) && r != '-' }) {
			return nil
		}
	}
	return list
}
