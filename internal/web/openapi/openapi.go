// Package openapi describes doors in OpenAPI 3.1, from the same routes that a server mounts.
//
// What is described is what internal/web does: every parameter and member comes from the struct it is bound to, no other
// member is taken, and every refusal is a problem (RFC 9457). Tests hold live answers against the description. The
// description is made once, at start; the package keeps no state.
package openapi

import (
	"encoding/json"
	"fmt"
	"net/http"
	"path"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/swaggest/jsonschema-go"

	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/web"
)

// An Info says what is described.
type Info struct {
	Title, Version, Description string
	URL                         string // base URL of the listener
}

// object is JSON under construction. Keys come out sorted: the same routes give the same octets.
type object = map[string]any

// Route returns the route that serves the description of doors, itself included, to anybody.
func Route(about Info, doors ...web.Door) (web.Route, error) {
	r := web.Route{
		Method: http.MethodGet, Path: "/openapi.json", ID: "describe", Summary: "This description", Access: web.Anyone,
	}
	r.Handler = web.Plain(nil)
	doc, err := Describe(about, append(doors, web.Door{Routes: []web.Route{r}})...)
	if err != nil {
		return web.Route{}, err
	}
	r.Handler = web.Raw(func(w http.ResponseWriter, _ *http.Request, _ identity.Caller) error {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "max-age=300")
		_, err := w.Write(doc)
		return err
	})
	return r, nil
}

// Describe returns the description of doors.
func Describe(about Info, doors ...web.Door) ([]byte, error) {
	d := &describer{schemas: object{}}
	if _, err := d.schema(reflect.TypeFor[web.Problem](), open); err != nil {
		return nil, err
	}
	paths, seen := object{}, map[string]bool{}
	for _, door := range doors {
		for _, r := range door.Routes {
			if r.ID == "" || seen[r.ID] {
				return nil, fmt.Errorf("describing %s %s: operation %q: want an id of its own", r.Method, r.Path, r.ID)
			}
			seen[r.ID] = true
			op, err := d.operation(r)
			if err != nil {
				return nil, fmt.Errorf("describing %s %s: %w", r.Method, r.Path, err)
			}
			path := strings.ReplaceAll(r.Path, "...}", "}")
			item, ok := paths[path].(object)
			if !ok {
				item = object{}
				paths[path] = item
			}
			item[strings.ToLower(r.Method)] = op
		}
	}
	return json.MarshalIndent(object{
		"openapi": "3.1.0",
		"info":    object{"title": about.Title, "version": about.Version, "description": about.Description},
		"servers": []object{{"url": about.URL}},
		"paths":   paths,
		"components": object{
			"schemas": d.schemas,
			"securitySchemes": object{"certificate": object{
				"type": "mutualTLS", "description": "A client certificate of this service, with its SPIFFE ID.",
			}},
		},
	}, "", " ")
}

type describer struct {
	schemas  object
	packages map[string]string // whose type each name is
}

func (d *describer) operation(r web.Route) (object, error) {
	op := object{"operationId": r.ID, "summary": r.Summary, "tags": []string{tag(r.Path)}}
	switch r.Access {
	case web.Holder, web.Bearer:
		op["security"] = []object{{"certificate": []string{}}}
	case web.Operator:
		op["security"] = []object{{"certificate": []string{}}}
		op["description"] = "For operators."
	case web.Anyone:
		op["security"] = []object{{}, {"certificate": []string{}}}
	}
	params, err := parameters(r)
	if err != nil {
		return nil, err
	}
	if len(params) > 0 {
		op["parameters"] = params
	}
	if hasBody(r.Handler.In()) {
		ref, err := d.schema(r.Handler.In(), closed)
		if err != nil {
			return nil, err
		}
		op["requestBody"] = object{"required": true, "content": object{"application/json": object{"schema": ref}}}
	}
	op["responses"], err = d.responses(r)
	return op, err
}

// tag groups operations by what they are about: the last word of the path that is no parameter.
func tag(path string) string {
	out := "service"
	for _, seg := range strings.Split(path, "/") {
		if word, _, _ := strings.Cut(seg, ":"); word != "" && word != "v1" && !strings.HasPrefix(word, "{") {
			out = word
		}
	}
	return strings.TrimSuffix(out, ".json")
}

func (d *describer) responses(r web.Route) (object, error) {
	out := object{"default": object{
		"description": "A refusal, or what went wrong (RFC 9457).",
		"content":     object{"application/problem+json": object{"schema": object{"$ref": prefix + "Problem"}}},
	}}
	t := r.Handler.Out()
	status := r.Status
	switch {
	case t == reflect.TypeFor[web.Nothing]():
		out[strconv.Itoa(max(status, http.StatusNoContent))] = object{"description": "Done."}
		return out, nil
	case status == 0:
		status = http.StatusOK
	}
	done := object{"description": http.StatusText(status)}
	if media := r.Handler.Media(); media != "" {
		done["content"] = object{media: object{"schema": object{"type": "string"}}}
	}
	if t != nil {
		ref, err := d.schema(t, open)
		if err != nil {
			return nil, err
		}
		done["content"] = object{"application/json": object{"schema": ref}}
	}
	out[strconv.Itoa(status)] = done
	return out, nil
}

func parameters(r web.Route) ([]object, error) {
	var out []object
	for _, p := range r.Params() {
		s, err := paramSchema(p)
		if err != nil {
			return nil, err
		}
		o := object{"name": p.Name, "in": p.In, "schema": s}
		if p.In == "path" {
			o["required"] = true
		}
		if text := p.Field.Tag.Get("description"); text != "" {
			o["description"] = text
		}
		out = append(out, o)
	}
	return out, nil
}

// paramSchema is the schema of a parameter, by the kind of its field and the tags that internal/web obeys.
func paramSchema(p web.Param) (object, error) {
	s := object{"type": "string"}
	t, tags := p.Field.Type, p.Field.Tag
	if t == nil {
		return s, nil
	}
	if t == reflect.TypeFor[web.Time]() {
		s["format"] = "date-time"
		return s, nil
	}
	switch t.Kind() {
	case reflect.Int:
		s["type"] = "integer"
	case reflect.Bool:
		s["type"] = "boolean"
	default:
		if pattern := tags.Get("pattern"); pattern != "" {
			s["pattern"] = pattern
		}
		return s, nil
	}
	for _, key := range []string{"minimum", "maximum", "default"} {
		v := tags.Get(key)
		if v == "" {
			continue
		}
		var n any
		if err := json.Unmarshal([]byte(v), &n); err != nil {
			return nil, fmt.Errorf("parameter %s: tag %s: %w", p.Name, key, err)
		}
		s[key] = n
	}
	return s, nil
}

const prefix = "#/components/schemas/"

// hasBody reports whether any field of t is a member of the body.
func hasBody(t reflect.Type) bool {
	if t == nil || t.Kind() != reflect.Struct {
		return false
	}
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Anonymous && name == "" && hasBody(f.Type) || name != "" && name != "-" {
			return true
		}
	}
	return false
}

// closed is for requests: a member not named is refused.
func closed(o object) {
	if _, members := o["properties"]; members {
		o["additionalProperties"] = false
	}
}

// open is for answers: members may come to them.
func open(object) {}

// schema adds t's schema to the components, as finish leaves it, and returns what refers to it.
func (d *describer) schema(t reflect.Type, finish func(object)) (object, error) {
	var r jsonschema.Reflector
	r.AddTypeMapping(web.Time{}, timeSchema())
	s, err := r.Reflect(reflect.New(t).Elem().Interface(),
		jsonschema.DefinitionsPrefix(prefix), jsonschema.RootRef,
		jsonschema.InterceptDefName(func(t reflect.Type, _ string) string { return d.name(t) }),
		jsonschema.InterceptNullability(func(p jsonschema.InterceptNullabilityParams) {
			if p.OmitEmpty || p.Type.Kind() != reflect.Pointer { // our lists are never null; pointers that are always there may be
				p.Schema.RemoveType(jsonschema.Null)
			}
		}),
		jsonschema.CollectDefinitions(func(name string, s jsonschema.Schema) { d.add(name, s, finish) }))
	if err != nil {
		return nil, fmt.Errorf("schema of %s: %w", t, err)
	}
	return plain(s)
}

func (d *describer) add(name string, s jsonschema.Schema, finish func(object)) {
	o, err := plain(s)
	if err != nil {
		panic(fmt.Sprintf("openapi: internal error: schema %s: %v", name, err))
	}
	finish(o)
	if had, ok := d.schemas[name].(object); ok && !same(had, o) {
		// What is both sent and answered is described as answers are: the server refuses other members all the same.
		delete(had, "additionalProperties")
		delete(o, "additionalProperties")
		if !same(had, o) {
			panic(fmt.Sprintf("openapi: internal error: two types are called %s", name))
		}
	}
	d.schemas[name] = o
}

func same(a, b any) bool {
	x, err1 := json.Marshal(a)
	y, err2 := json.Marshal(b)
	return err1 == nil && err2 == nil && string(x) == string(y)
}

// name is what t is called: as in Go, and, where another door has a type of that name already, with the door's domain before it.
func (d *describer) name(t reflect.Type) string {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	name := exported(t.Name())
	if d.packages == nil {
		d.packages = map[string]string{}
	}
	if of, taken := d.packages[name]; taken && of != t.PkgPath() {
		name = exported(path.Base(path.Dir(t.PkgPath()))) + name
	}
	d.packages[name] = t.PkgPath()
	return name
}

// exported names a type as Go's exported names are, without the brackets of a generic one.
func exported(name string) string {
	name, _, _ = strings.Cut(name, "[")
	if name == "" {
		return "Object"
	}
	return strings.ToUpper(name[:1]) + name[1:]
}

func timeSchema() jsonschema.Schema {
	var s jsonschema.Schema
	s.WithType(jsonschema.String.Type())
	s.WithFormat("date-time")
	s.WithExamples(time.Date(2026, time.January, 2, 15, 4, 5, 0, time.UTC).Format(time.RFC3339)) //nolint:mnd // any time
	return s
}

// plain turns a schema into JSON under construction.
func plain(v any) (object, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	var o object
	if err := json.Unmarshal(b, &o); err != nil {
		return nil, err
	}
	return o, nil
}
