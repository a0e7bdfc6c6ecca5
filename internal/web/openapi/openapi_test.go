package openapi_test

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/web"
	"codeberg.org/dataverket/segl/internal/web/openapi"
)

type makeRequest struct {
	Scope identity.Scope     `json:"-" path:"tenant,project"`
	Key   web.IdempotencyKey `json:"-" header:"Idempotency-Key"`
	Text  string             `json:"text" required:"true"`
	Parts []part             `json:"parts,omitempty"`
}

type part struct {
	When web.Time `json:"when"`
}

type made struct {
	ID string `json:"id" required:"true"`
}

func route(id string) web.Route {
	return web.Route{
		Method: "POST", Path: "/v1/tenants/{tenant}/notes", ID: id, Summary: "Make a note", Status: 201,
		Handler: web.JSON(func(context.Context, identity.Caller, makeRequest) (made, error) { return made{}, nil }),
	}
}

func TestADescriptionSaysWhatTheRouteDoes(t *testing.T) {
	list := web.Route{
		Method: "GET", Path: "/v1/notes", ID: "list", Access: web.Operator,
		Handler: web.JSON(func(context.Context, identity.Caller, struct{ web.Page }) (web.Nothing, error) {
			return web.Nothing{}, nil
		}),
	}
	raw, err := openapi.Describe(openapi.Info{Title: "T", Version: "1", URL: "https://x"}, web.Door{Routes: []web.Route{route("make"), list}})
	if err != nil {
		t.Fatal(err)
	}
	var doc any
	if err := json.Unmarshal(raw, &doc); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"openapi": `"3.1.0"`,
		"paths./v1/tenants/{tenant}/notes.post.operationId":               `"make"`,
		"paths./v1/tenants/{tenant}/notes.post.security":                  `[{"certificate":[]}]`,
		"paths./v1/tenants/{tenant}/notes.post.requestBody.required":      `true`,
		"paths./v1/tenants/{tenant}/notes.post.responses.default.content": `{"application/problem+json":{"schema":{"$ref":"#/components/schemas/Problem"}}}`,
		"paths./v1/tenants/{tenant}/notes.post.responses.201.content":     `{"application/json":{"schema":{"$ref":"#/components/schemas/Made"}}}`,
		"paths./v1/tenants/{tenant}/notes.post.parameters": `[{"in":"path","name":"tenant","required":true,"schema":{"type":"string"}},` +
			`{"in":"header","name":"Idempotency-Key","schema":{"type":"string"}}]`,
		"components.schemas.MakeRequest.additionalProperties": `false`,
		"components.schemas.MakeRequest.required":             `["text"]`,
		"components.schemas.Part.additionalProperties":        `false`,
		"components.schemas.Made.additionalProperties":        `null`,
		"components.schemas.MakeRequest.properties.parts":     `{"items":{"$ref":"#/components/schemas/Part"},"type":"array"}`,
		"components.schemas.Time.format":                      `"date-time"`,
		"paths./v1/notes.get.responses.204.description":       `"Done."`,
		"paths./v1/notes.get.description":                     `"For operators."`,
	} {
		at := doc
		for _, key := range strings.Split(path, ".") {
			m, ok := at.(map[string]any)
			if !ok {
				at = nil
				break
			}
			at = m[key]
		}
		if got, err := json.Marshal(at); err != nil || string(got) != want {
			t.Errorf("%s is %s, want %s", path, got, want)
		}
	}
	if !strings.Contains(string(raw), `"maximum": 1000`) {
		t.Error("the bound of a page is not told")
	}
}

func TestOperationsHaveNamesOfTheirOwn(t *testing.T) {
	for name, routes := range map[string][]web.Route{
		"none": {route("")},
		"two":  {route("make"), {Method: "GET", Path: "/x", ID: "make", Handler: web.Plain(http.NotFoundHandler())}},
	} {
		if _, err := openapi.Describe(openapi.Info{}, web.Door{Routes: routes}); err == nil {
			t.Errorf("%s: described", name)
		}
	}
}
