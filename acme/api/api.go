// Package api is the ACME door: RFC 8555 over HTTP, one directory a scope.
//
// It decodes, checks the signature's header against the request, lets the domain admit the account, calls one method of
// acme.Server and encodes. What may be ordered, by whom and what becomes of it is decided there. A scope's directory is at
// /acme/<tenant>[/<project>[/<environment>]]/directory; everything the directory leads to stands below
// /acme/-/<tenant>[.<project>[.<environment>]]/, where no name of a tenant can be. Every URL begins with the configured
// base, never with what a request calls us.
//
// Each answer to a POST carries a fresh nonce, errors too (RFC 8555 §6.5); errors are problem documents of RFC 8555 §6.7.
// A door keeps no state and is safe for concurrent use.
package api

import (
	"net/http"
	"strconv"
	"strings"

	"codeberg.org/dataverket/segl/acme"
	"codeberg.org/dataverket/segl/acme/jws"
	"codeberg.org/dataverket/segl/internal/identity"
	"codeberg.org/dataverket/segl/internal/uid"
	"codeberg.org/dataverket/segl/internal/web"
)

// A Config says what a door serves.
type Config struct {
	Server *acme.Server
	// Base is the URL that clients reach the listener by: scheme, host and port, no trailing slash.
	Base string
	// Platform makes it the operators' door: it serves the platform's own directory and no other. Without it, it serves
	// every scope but that.
	Platform bool
}

type door struct{ Config }

// Door returns the routes of an ACME door.
func Door(c Config) web.Door {
	d := &door{c}
	routes := []web.Route{
		get("/acme/{tenant}/directory", "The ACME directory of a tenant, or the platform's.", d.directory),
		get("/acme/{tenant}/{project}/directory", "The ACME directory of a project.", d.directory),
		get("/acme/{tenant}/{project}/{environment}/directory", "The ACME directory of an environment.", d.directory),
		get(below+newNonce, "A fresh nonce (RFC 8555 §7.2).", d.newNonce),
		get(below+renewalInfoAt+"/{certid}", "When a certificate is best renewed (RFC 9773 §4.1).", d.renewalInfo),
		get(below+starAt+"/{id}", "Fetch the current certificate of an order that renews itself (RFC 8739 §3.4).", d.getStarCertificate),
		get(below+limitsAt, "How often what may be done here (RFC 8555 §6.6).", d.limits),
	}
	for _, r := range []struct {
		path, summary string
		act           action
	}{
		{newAccount, "Make or find an account (RFC 8555 §7.3).", d.newAccount},
		{keyChange, "Change an account's key (RFC 8555 §7.3.5).", d.keyChange},
		{newAuthz, "Claim a name before ordering it (RFC 8555 §7.4.1).", d.newAuthz},
		{newOrder, "Order a certificate (RFC 8555 §7.4).", d.newOrder},
		{revokeCert, "Revoke a certificate (RFC 8555 §7.6).", d.revokeCert},
		{"acct/{id}", "Read, change or deactivate an account (RFC 8555 §7.3.2).", d.account},
		{"acct/{id}/orders", "List an account's orders (RFC 8555 §7.1.2.1).", d.orders},
		{"order/{id}", "Read an order (RFC 8555 §7.1.3).", d.order},
		{"order/{id}/finalize", "Ask for an order's certificate (RFC 8555 §7.4).", d.finalize},
		{"authz/{id}", "Read or deactivate an authorization (RFC 8555 §7.5).", d.authorization},
		{"chall/{id}/{method}", "Read a challenge, or say that it is ready (RFC 8555 §7.5.1).", d.challenge},
		{starAt + "/{id}", "Fetch the current certificate of an order that renews itself (RFC 8739 §3.3).", d.starCertificate},
		{"cert/{id}", "Fetch an order's certificate (RFC 8555 §7.4.2).", d.certificate},
		{"cert/{id}/{chain}", "Fetch an order's certificate with another chain (RFC 8555 §7.4.2).", d.certificate},
	} {
		routes = append(routes,
			web.Route{Method: http.MethodPost, Path: below + r.path, Summary: r.summary, Access: web.Anyone, MaxBody: jws.MaxSize, Handler: d.post(r.act)})
		if r.path != starAt+"/{id}" { // which may be read by anybody, where its order says so
			routes = append(routes, get(below+r.path, "Refused: resources are read with POST-as-GET.", d.refuseGet))
		}
	}
	return web.Door{Routes: routes}
}

func get(path, summary string, h func(http.ResponseWriter, *http.Request, identity.Caller) error) web.Route {
	return web.Route{Method: http.MethodGet, Path: path, Summary: summary, Access: web.Anyone, Handler: web.Raw(h)}
}

// below is where everything but directories stands.
const below = "/acme/-/{scope}/"

const (
	newNonce   = "new-nonce"
	newAccount = "new-account"
	newOrder   = "new-order"
	newAuthz   = "new-authz"
	keyChange  = "key-change"
	revokeCert = "revoke-cert"

	renewalInfoAt = "renewal-info"
	limitsAt      = "limits"
	starAt        = "star-cert"
)

// serves reports whether s has its directory at this door.
func (d *door) serves(s identity.Scope) bool { return s.IsPlatform() == d.Platform }

// parse reads a scope in the form that joins its parts with sep.
func (d *door) parse(text, sep string) (identity.Scope, error) {
	s, err := identity.ParseScope(strings.ReplaceAll(text, sep, "/"))
	if err != nil || !d.serves(s) || sep != "/" && strings.Contains(text, "/") {
		p := acme.NewProblem(acme.Malformed, "no ACME directory is served here for %.120q: check the URL", text)
		p.Status = http.StatusNotFound
		return identity.Scope{}, p
	}
	return s, nil
}

// places makes the URLs of one scope.
type places struct{ base, scope string }

func (d *door) at(s identity.Scope) places { return places{d.Base, s.String()} }

func (p places) directory() string { return p.base + "/acme/" + p.scope + "/directory" }

func (p places) of(path string) string {
	return p.base + "/acme/-/" + strings.ReplaceAll(p.scope, "/", ".") + "/" + path
}

func (p places) account(id uid.UID) string { return p.of("acct/" + id.String()) }
func (p places) order(id uid.UID) string   { return p.of("order/" + id.String()) }
func (p places) authz(id uid.UID) string   { return p.of("authz/" + id.String()) }
func (p places) cert(id uid.UID) string    { return p.of("cert/" + id.String()) }
func (p places) star(id uid.UID) string    { return p.of(starAt + "/" + id.String()) }

// chain is the URL of the certificate of an order with its nth chain.
func (p places) chain(order uid.UID, n int) string {
	if n == 0 {
		return p.cert(order)
	}
	return p.cert(order) + "/" + strconv.Itoa(n)
}

func (p places) challenge(c acme.Challenge) string {
	return p.of("chall/" + c.Authorization.String() + "/" + string(c.Method))
}

// AccountURL returns the URL of an account at the door whose base is base.
func AccountURL(base string, scope identity.Scope, id uid.UID) string {
	return places{base, scope.String()}.account(id)
}

// accountOf reads an account URL back.
func (p places) accountOf(kid string) (uid.UID, bool) {
	id, ok := strings.CutPrefix(kid, p.of("acct/"))
	u, err := uid.Parse(id)
	return u, ok && err == nil
}
