// Package webtest plays transcripts of HTTP against a real listener.
//
// A transcript is a text file of exchanges, each after a line of "== " and its promise:
//
//	== a member not known is refused by name
//	as holder
//	> POST /v1/notes
//	> Content-Type: application/json
//	>
//	> {"texxt":"x"}
//	< 400
//	< Content-Type: application/problem+json
//	<
//	< {"type":"urn:segl:problem:unknown-member",…}
//
// "as" names a client; without one the first of the transcript goes on. Of the answer, the status and the named header
// fields must be equal, a field written with "<! " must be absent, and the body, where there is one after
// an empty line, is compared whole; "…" stands for anything within a line. Bytes long to write are made by {{repeat N x}} in a request. Lines that begin with # are comments. The
// package is for tests and keeps no state.
package webtest

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// Clients makes the client that a transcript calls name, and says where it sends its requests.
type Clients func(t *testing.T, name string) (c *http.Client, base string)

type exchange struct {
	name, as        string
	line            int
	request, answer []string
	absent          []string
}

// Play runs every exchange of file in order, each as a subtest. Names in vars are replaced in it: "$NAME" by its value.
func Play(t *testing.T, file string, vars map[string]string, clients Clients) {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	text := string(raw)
	for name, value := range vars {
		text = strings.ReplaceAll(text, "$"+name, value)
	}
	for _, x := range parse(t, file, text) {
		t.Run(strings.ReplaceAll(x.name, " ", "_"), func(t *testing.T) {
			c, base := clients(t, x.as)
			x.play(t, file, c, base)
		})
	}
}

func parse(t *testing.T, file, text string) []*exchange {
	t.Helper()
	var all []*exchange
	as := ""
	for i, line := range strings.Split(text, "\n") {
		if name, ok := strings.CutPrefix(line, "== "); ok {
			all = append(all, &exchange{name: name, as: as, line: i + 1})
			continue
		}
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if len(all) == 0 {
			t.Fatalf("%s:%d: before the first exchange", file, i+1)
		}
		x := all[len(all)-1]
		mark, rest, _ := strings.Cut(line, " ")
		switch mark {
		case "as":
			as, x.as = rest, rest
		case ">":
			x.request = append(x.request, rest)
		case "<":
			x.answer = append(x.answer, rest)
		case "<!":
			x.absent = append(x.absent, rest)
		default:
			t.Fatalf("%s:%d: want a line of ==, as, >, < or <!", file, i+1)
		}
	}
	return all
}

func (x *exchange) play(t *testing.T, file string, c *http.Client, base string) {
	t.Helper()
	req := x.newRequest(t, base)
	resp, err := c.Do(req)
	if err != nil {
		t.Fatalf("%s:%d: %v", file, x.line, err)
	}
	body, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err != nil {
		t.Fatalf("%s:%d: reading the answer: %v", file, x.line, err)
	}
	head, want := x.split()
	if got := strconv.Itoa(resp.StatusCode); got != head[0] {
		t.Errorf("%s:%d: status %s, want %s", file, x.line, got, head[0])
	}
	for _, h := range head[1:] {
		name, value, _ := strings.Cut(h, ": ")
		if got := resp.Header.Get(name); !matches(value, got) {
			t.Errorf("%s:%d: %s is %q, want %q", file, x.line, name, got, value)
		}
	}
	for _, name := range x.absent {
		if got := resp.Header.Get(name); got != "" {
			t.Errorf("%s:%d: %s is %q, want none", file, x.line, name, got)
		}
	}
	if got := strings.TrimRight(string(body), "\n"); want != nil && !matches(strings.Join(want, "\n"), got) {
		t.Errorf("%s:%d: body\n%s\nwant\n%s", file, x.line, got, strings.Join(want, "\n"))
	}
}

// split parts the expected answer into status and header, and body.
func (x *exchange) split() (head, body []string) {
	for i, l := range x.answer {
		if l == "" {
			return x.answer[:i], x.answer[i+1:]
		}
	}
	return x.answer, nil
}

func (x *exchange) newRequest(t *testing.T, base string) *http.Request {
	t.Helper()
	if len(x.request) == 0 || len(x.answer) == 0 {
		t.Fatalf("line %d: an exchange needs a request and an answer", x.line)
	}
	method, path, _ := strings.Cut(x.request[0], " ")
	rest := x.request[1:]
	header := http.Header{}
	for len(rest) > 0 && rest[0] != "" {
		name, value, _ := strings.Cut(rest[0], ": ")
		header.Add(name, expand(value))
		rest = rest[1:]
	}
	var body io.Reader
	if len(rest) > 1 {
		body = strings.NewReader(expand(strings.Join(rest[1:], "\n")))
	}
	req, err := http.NewRequestWithContext(t.Context(), method, base+path, body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header = header
	return req
}

var repeats = regexp.MustCompile(`\{\{repeat (\d+) (.+?)\}\}`)

func expand(s string) string {
	return repeats.ReplaceAllStringFunc(s, func(m string) string {
		p := repeats.FindStringSubmatch(m)
		n, err := strconv.Atoi(p[1])
		if err != nil {
			panic(fmt.Sprintf("webtest: internal error: %q", m))
		}
		return strings.Repeat(p[2], n)
	})
}

// matches reports whether got is want, in which "…" stands for anything without a line's end.
func matches(want, got string) bool {
	parts := strings.Split(want, "…")
	for i := range parts {
		parts[i] = regexp.QuoteMeta(parts[i])
	}
	return regexp.MustCompile(`\A` + strings.Join(parts, `.*`) + `\z`).MatchString(got)
}
