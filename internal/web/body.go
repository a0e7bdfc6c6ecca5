package web

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"slices"
	"strings"
)

// ReadBody reads the whole content of a request, of one of the given media types and at most the route's bound, for Raw
// handlers. An error of it is a Fault.
func ReadBody(w http.ResponseWriter, r *http.Request, types ...string) ([]byte, error) {
	c, ok := w.(*call)
	if !ok {
		panic("web: internal error: ReadBody outside a Raw handler")
	}
	if err := checkType(r, types...); err != nil {
		return nil, err
	}
	b, err := io.ReadAll(c.body())
	if err != nil {
		return nil, c.badBody(err)
	}
	return b, nil
}

// limit returns the bound of this request's content.
func (c *call) limit() int64 {
	if c.route.MaxBody != 0 {
		return c.route.MaxBody
	}
	return c.server.maxBody
}

// body returns the content, bounded. Beyond the bound the connection is closed after the answer.
func (c *call) body() io.Reader {
	return http.MaxBytesReader(c.ResponseWriter, c.r.Body, c.limit())
}

func checkType(r *http.Request, want ...string) error {
	refuse := func(detail string) error {
		return &Fault{
			Status: http.StatusUnsupportedMediaType, Name: "unsupported-media-type", Title: "The content is of a type not taken here",
			Detail: detail, Remedy: "send it with Content-Type: " + strings.Join(want, " or "),
		}
	}
	if enc := r.Header.Get("Content-Encoding"); enc != "" && enc != "identity" {
		return refuse("content codings are not taken: send it as it is")
	}
	got := r.Header.Get("Content-Type")
	if slices.Contains(want, got) {
		return nil
	}
	media, params, err := mime.ParseMediaType(got)
	if err != nil || !slices.Contains(want, media) {
		return refuse(fmt.Sprintf("content type %.80q", got))
	}
	if cs := params["charset"]; cs != "" && !strings.EqualFold(cs, "utf-8") {
		return refuse("JSON is UTF-8 (RFC 8259 §8.1)")
	}
	return nil
}

// decode reads one JSON object into v and nothing after it. Nesting is bounded by encoding/json, which recurses only as
// deep as v's type does.
func (c *call) decode(v any) error {
	if err := checkType(c.r, "application/json"); err != nil {
		return err
	}
	d := json.NewDecoder(c.body())
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return c.badBody(err)
	}
	if _, err := d.Token(); err == nil {
		return malformed("something follows the JSON object", "send one object and nothing after it")
	} else if !errors.Is(err, io.EOF) {
		if big, ok := errors.AsType[*http.MaxBytesError](err); ok {
			return c.badBody(big)
		}
		return malformed("something follows the JSON object", "send one object and nothing after it")
	}
	return nil
}

func malformed(detail, remedy string) error {
	return &Fault{
		Status: http.StatusBadRequest, Name: "malformed-body", Title: "The content cannot be read", Detail: detail, Remedy: remedy,
	}
}

// badBody says what was wrong with the content, by what a decoder or a reader returned.
func (c *call) badBody(err error) error {
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return &Fault{
			Status: http.StatusRequestEntityTooLarge, Name: "content-too-large", Title: "The content is too large",
			Detail: fmt.Sprintf("the content is larger than %d octets", c.limit()), Remedy: "send less at a time",
		}
	}
	if bad, ok := errors.AsType[*json.SyntaxError](err); ok {
		return malformed(fmt.Sprintf("not JSON at octet %d (RFC 8259)", bad.Offset), "send one JSON object")
	}
	if bad, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		if bad.Field == "" {
			return malformed("the content is JSON, but no object", "send one JSON object")
		}
		return malformed(fmt.Sprintf("member %.80q is a %s, want a %s", bad.Field, bad.Value, kindOf(bad.Type)), "see /openapi.json")
	}
	if name, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
		return &Fault{
			Status: http.StatusBadRequest, Name: "unknown-member", Title: "The content has a member not known here",
			Detail: fmt.Sprintf("member %.82s is not known here", name), Remedy: "leave it out, or see /openapi.json for the spelling",
		}
	}
	switch {
	case errors.Is(err, io.EOF):
		return malformed("the content is empty", "send one JSON object")
	case errors.Is(err, io.ErrUnexpectedEOF):
		return malformed("the content ends too early", "send all of it")
	}
	return malformed(fmt.Sprintf("%.300s", err), "see /openapi.json")
}
