package api_test

import (
	"testing"

	"codeberg.org/dataverket/segl/acme/api"
)

func TestAPathIsOfOneScopeOrOfNone(t *testing.T) {
	for path, want := range map[string]string{
		"/acme/demo/directory": "demo", "/acme/demo/shop/dev/directory": "demo/shop/dev", "/acme/platform/directory": "platform",
		"/acme/-/demo/new-nonce": "demo", "/acme/-/demo.shop.dev/order/1": "demo/shop/dev", "/acme/-/demo.shop.dev/cert/1/0": "demo/shop/dev",
		"/acme/-/demo/../other/order/1": "demo",
		"/acme/-/":                      "", "/acme/-/Demo/x": "", "/acme/-/a.b.c.d/x": "", "/acme/demo": "", "/acme/directory": "", "/acme//directory": "",
		"/acme/demo//directory": "", "/acme/demo/../other/directory": "", "/v1/tenants/demo": "", "": "",
	} {
		if got, ok := api.ScopeOf(path); ok != (want != "") || got.String() != want {
			t.Errorf("%s is of %q, %t, want %q", path, got, ok, want)
		}
	}
}
