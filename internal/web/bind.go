package web

import (
	"encoding"
	"fmt"
	"net/http"
	"net/url"
	"reflect"
	"strconv"
	"strings"
)

// A plan says where the fields of a request struct come from. It is made once for each type.
type plan struct {
	fields   []field
	params   []Param
	query    map[string]bool
	members  bool // some fields come from the body
	required []field
}

// A field is one place in the struct and what fills it.
type field struct {
	index    []int
	from     string   // path, query, header
	names    []string // of path, several that together make one value, as in path:"tenant,project,environment"
	fallback string   // the tag default
	name     string   // for people
	set      func(v reflect.Value, s string) error
}

func newPlan(t reflect.Type) *plan {
	if t.Kind() != reflect.Struct {
		panic(fmt.Sprintf("web: internal error: a request must be a struct, not %s", t))
	}
	p := &plan{query: make(map[string]bool)}
	p.walk(t, nil)
	return p
}

func (p *plan) walk(t reflect.Type, above []int) {
	for i := range t.NumField() {
		f := t.Field(i)
		index := append(append([]int(nil), above...), i)
		from, names := source(f.Tag)
		member, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case f.Anonymous && f.Type.Kind() == reflect.Struct && from == "" && member == "":
			p.walk(f.Type, index)
		case !f.IsExported() || member == "" || (from != "") != (member == "-"):
			panic(fmt.Sprintf(`web: internal error: %s.%s: want an exported field tagged json, or path, query or header and json:"-"`, t, f.Name))
		case from != "":
			for _, n := range names {
				p.query[n] = p.query[n] || from == "query"
				p.params = append(p.params, Param{n, from, f})
			}
			p.fields = append(p.fields, field{index, from, names, f.Tag.Get("default"), from + " parameter " + names[0], setter(f)})
		default:
			p.members = true
			if f.Tag.Get("required") == "true" {
				p.required = append(p.required, field{index: index, name: member})
			}
		}
	}
}

func source(t reflect.StructTag) (from string, names []string) {
	for _, from := range []string{"path", "query", "header"} {
		if v, ok := t.Lookup(from); ok {
			return from, strings.Split(v, ",")
		}
	}
	return "", nil
}

// setter returns the function that fills a field of f's type, refusing what it cannot hold.
func setter(f reflect.StructField) func(reflect.Value, string) error {
	if reflect.PointerTo(f.Type).Implements(reflect.TypeFor[encoding.TextUnmarshaler]()) {
		return func(v reflect.Value, s string) error {
			u, ok := v.Addr().Interface().(encoding.TextUnmarshaler)
			if !ok {
				panic("web: internal error: a field lost its method")
			}
			return u.UnmarshalText([]byte(s))
		}
	}
	switch f.Type.Kind() {
	case reflect.String:
		return func(v reflect.Value, s string) error { v.SetString(s); return nil }
	case reflect.Int:
		return intSetter(f.Tag)
	case reflect.Bool:
		return func(v reflect.Value, s string) error {
			if s != "true" && s != "false" {
				return fmt.Errorf("%.20q: want true or false", s)
			}
			v.SetBool(s == "true")
			return nil
		}
	}
	panic(fmt.Sprintf("web: internal error: field %s: type %s cannot be a parameter", f.Name, f.Type))
}

// intSetter keeps to the bounds that the description of the API tells from the same tags.
func intSetter(tag reflect.StructTag) func(reflect.Value, string) error {
	low, err1 := strconv.ParseInt(tag.Get("minimum"), 10, 32)
	high, err2 := strconv.ParseInt(tag.Get("maximum"), 10, 32)
	if err1 != nil || err2 != nil {
		panic("web: internal error: a numeric parameter needs the tags minimum and maximum")
	}
	return func(v reflect.Value, s string) error {
		n, err := strconv.ParseInt(s, 10, 32)
		if err != nil || n < low || n > high {
			return fmt.Errorf("%.20q: want a number from %d to %d", s, low, high)
		}
		v.SetInt(n)
		return nil
	}
}

// bind fills v.
func (p *plan) bind(c *call, v reflect.Value) error {
	query, err := p.queryOf(c.r)
	if err != nil {
		return err
	}
	if p.members {
		if err := p.bindBody(c, v); err != nil {
			return err
		}
	}
	for i := range p.fields {
		f := &p.fields[i]
		s := f.value(c, query)
		if s == "" {
			continue
		}
		if err := f.set(v.FieldByIndex(f.index), s); err != nil {
			return &Fault{
				Status: http.StatusBadRequest, Name: "invalid-parameter", Title: "A parameter cannot be read",
				Detail: f.name + ": " + err.Error(), Remedy: "see /openapi.json",
			}
		}
	}
	return nil
}

func (p *plan) bindBody(c *call, v reflect.Value) error {
	if err := c.decode(v.Addr().Interface()); err != nil {
		return err
	}
	for _, f := range p.required {
		if m := v.FieldByIndex(f.index); m.IsZero() || m.Kind() == reflect.Slice && m.Len() == 0 {
			return malformed(fmt.Sprintf("member %q is missing or empty", f.name), "see /openapi.json")
		}
	}
	return nil
}

// queryOf parses the query, refusing parameters that nobody reads: a misspelt page_size must not mean "all".
func (p *plan) queryOf(r *http.Request) (url.Values, error) {
	if r.URL.RawQuery == "" {
		return nil, nil
	}
	refuse := func(detail string) (url.Values, error) {
		return nil, &Fault{
			Status: http.StatusBadRequest, Name: "invalid-parameter", Title: "A parameter cannot be read",
			Detail: detail, Remedy: "see /openapi.json",
		}
	}
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return refuse("the query is not well formed")
	}
	for name, values := range q {
		if !p.query[name] {
			return refuse(fmt.Sprintf("query parameter %.60q is not known here", name))
		}
		if len(values) != 1 {
			return refuse(fmt.Sprintf("query parameter %s is there %d times, want once", name, len(values)))
		}
	}
	return q, nil
}

// platform is how the operators' own scope is written (identity.Platform).
const platform = "platform"

func (f *field) value(c *call, query url.Values) string {
	var s string
	switch f.from {
	case "query":
		s = query.Get(f.names[0])
	case "header":
		s = c.r.Header.Get(f.names[0])
	case "path":
		for _, name := range f.names {
			if v := c.param(name); v != "" && s != "" {
				s += "/" + v
			} else if v != "" {
				s = v
			}
		}
		if len(f.names) > 1 && s == platform {
			s += "/" // no tenant is called so, and its path must not lead to the platform's own scope
		}
	}
	if s == "" {
		return f.fallback
	}
	return s
}

func (c *call) param(name string) string {
	for i, n := range c.route.params {
		if n == name {
			return c.params[i]
		}
	}
	return ""
}

var kindNames = map[reflect.Kind]string{
	reflect.String: "string", reflect.Bool: "boolean", reflect.Slice: "array", reflect.Struct: "object", reflect.Map: "object",
}

// kindOf names a Go type as JSON does.
func kindOf(t reflect.Type) string {
	if t == nil {
		return "value"
	}
	if name := kindNames[t.Kind()]; name != "" {
		return name
	}
	return "number"
}
